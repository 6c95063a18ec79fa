"""Claiming: runs are taken, each by one process alone, in a transaction of its own.

Lock order here and everywhere: the flow's row, then the run's, by id; in any order where locked
rows are skipped. Who inserts a run holds the lock of its flow.
"""

import logging
import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, Text, bindparam, cast, select, update
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..db import backend_of, begin_writing
from ..errors import ScheduleError
from ..models import DataFlow, DataFlowRun, RunStatus, Trigger, table_of
from ..run import ClaimedRun
from ..schedules.every import Due
from .due import IS_DUE, IS_PENDING, FlowRow, due_of, eligibility_filters, query_params, window_of
from .finish import disable, one_more
from .unreadable import keep_readable, problem_of

# What a claim reads of a flow. The configuration is read as text and parsed by the run: an invalid
# one must fail its own flow, and not the claim of all.
READ = (
    *(DataFlow.id, DataFlow.name, DataFlow.handler, DataFlow.run_interval, DataFlow.next_run_at),
    *(DataFlow.cron, DataFlow.timezone, DataFlow.last_slot_at, DataFlow.window_starts_at),
    *(DataFlow.skipped_slots, DataFlow.backfill_until, DataFlow.created_at),
    cast(DataFlow.configuration, Text).label("configuration"),
)
MAX_BIG_INTEGER = 2**63 - 1  # of a column
log = logging.getLogger(__name__)

NO_VERDICTS: Mapping[int, bool] = {}
# Pending runs are rare: the query for due flows also reports whether there are any.
_ANY_PENDING = DataFlowRun.pending().order_by(None).exists().label("any_pending")
# The index on next_run_at yields the rows in order, so that no others are locked.
_LOCK_DUE = select(*READ, _ANY_PENDING).where(*IS_DUE).order_by(DataFlow.next_run_at)
_LOCK_DUE = _LOCK_DUE.limit(bindparam("limit")).with_for_update(skip_locked=True)
_FIND_PENDING = select(DataFlowRun.id).join(DataFlowRun.data_flow).where(*IS_PENDING)
_FIND_PENDING = _FIND_PENDING.order_by(DataFlowRun.id).limit(bindparam("limit"))
# On the tables: see `finish.py`.
_FLOW, _RUN = table_of(DataFlow), table_of(DataFlowRun)
# Pending runs with their flows.
_OF_RUN = [column.label(f"run_{column.key}") for column in _RUN.c]
_LOCK_PENDING = select(*READ, *_OF_RUN).join(DataFlowRun).where(*IS_PENDING)
_LOCK_PENDING = _LOCK_PENDING.where(DataFlowRun.id.in_(bindparam("runs", expanding=True)))
_LOCK_PENDING = _LOCK_PENDING.order_by(DataFlow.id).with_for_update(skip_locked=True)


def claim(
    session: Session,
    heartbeat: Heartbeat,
    limit: int,
    verdicts: Mapping[int, bool] = NO_VERDICTS,
    *,
    hand_over: bool = False,
) -> list[ClaimedRun]:
    """Claim at most `limit` runs: first what is pending, then what is due, most overdue first.

    verdicts: whether flows may run, by id, as far as this beat has checked their conditions.
    hand_over: leave the runs `pending`, for the workers of Celery, which take them one by one.

    The caller commits; then the runs are this process's to execute. Rows that another process holds
    are passed over, not waited for, so an empty list does not mean that nothing is due.
    """
    begin_writing(session, heartbeat.waiting_beats)
    if heartbeat.executor.stopped:  # while it waited for SQLite's lock
        return []
    free, known = eligibility_filters(heartbeat, verdicts), heartbeat.flows
    statement = _LOCK_DUE.where(*free) if free else _LOCK_DUE
    redeliver_after = heartbeat.redeliver_after
    asked = query_params(heartbeat.clock.now(), known, redeliver_after) | {"limit": limit}
    flows, runs = session.connection().execute(statement, asked).all(), list[ClaimedRun]()
    if not flows or flows[0].any_pending:
        waiting = session.connection().scalars(_FIND_PENDING, asked).all()
        runs = take_pending(session, heartbeat, waiting, hand_over=hand_over)
        flows = flows[: limit - len(runs)]
    # Read after locking: this process may have been suspended while others ran these flows.
    now = heartbeat.clock.now()
    flows = keep_readable(session, now, flows)
    # A handler name that was truncated when it was escaped belongs to no flow.
    flows = [flow for flow in flows if flow.handler in known]
    # A flow that became due after the conditions were checked waits for the next check.
    flows = [flow for flow in flows if verdicts.get(flow.id, not known[flow.handler].when)]
    return runs + _take_slots(session, heartbeat, flows, now, hand_over=hand_over)


def take_pending(
    session: Session, heartbeat: Heartbeat, run_ids: Sequence[int], *, hand_over: bool = False
) -> list[ClaimedRun]:
    """Take the given runs that are still pending, except those whose rows are locked.

    The caller commits.

    hand_over: leave them `pending`, and pass over those that were handed over not long ago.
    """
    redeliver_after = heartbeat.redeliver_after if hand_over else None
    asked = query_params(heartbeat.clock.now(), heartbeat.flows, redeliver_after)
    found = session.connection().execute(_LOCK_PENDING, {**asked, "runs": [*run_ids]}).all()
    now = heartbeat.clock.now()
    take = _handed_over if hand_over else _taken
    runs, changes = list[ClaimedRun](), list[dict[str, Any]]()
    starts, sent = list[dict[str, Any]](), dict[int, datetime]()
    for row in found:
        # Behind the columns of the flow are those of the run.
        run = SimpleNamespace(**dict(zip(_RUN.c.keys(), row[len(READ) :], strict=True)))
        if problem := problem_of(run, row):
            disable(session, row.id, str(problem), now)
            continue
        change = take(heartbeat, row, vars(run), now)
        changes.append({"id": run.id, **change})
        runs.append(_claimed(row, {**vars(run), **change}))
        if run.sent_at is not None:
            sent[run.id] = run.sent_at
        # The first run of a flow starts its windows: it may fail.
        if row.window_starts_at is None and run.trigger != Trigger.BACKFILL:
            start = runs[-1].window_start
            starts.append({"id": row.id, "window_starts_at": start, "updated_at": now})
    _change(session, _RUN, changes)
    if hand_over:
        _count_redeliveries(session, runs, sent)
    _change(session, _FLOW, starts)
    return runs


def _count_redeliveries(
    session: Session, runs: Sequence[ClaimedRun], sent: Mapping[int, datetime]
) -> None:
    """Count and log those of `runs` that were `sent` before, by id: no worker began them."""
    again = [run for run in runs if run.id in sent]
    for run in again:
        message = "run %d of %s is sent again: no worker has begun it since %s"
        log.warning(message, run.id, run.flow_name, sent[run.id])
    for own, count, ids in (
        (_RUN, _RUN.c.redeliveries, [run.id for run in again]),
        (_FLOW, _FLOW.c.redelivered_count, [run.data_flow_id for run in again]),
    ):
        if ids:
            change = update(own).where(own.c.id.in_(ids))
            session.connection().execute(change.values({count.name: one_more(count)}))


def _take_slots(
    session: Session,
    heartbeat: Heartbeat,
    flows: Sequence[FlowRow],
    now: datetime,
    *,
    hand_over: bool,
) -> list[ClaimedRun]:
    """Insert a run for each slot that is due, and set where its flow goes on.

    A flow without a due slot moves on without a run. One whose slot has its run already, made by
    hand, does too; one that has another active run stays as it is.
    """
    take = _handed_over if hand_over else _taken
    wanted, changes = list[tuple[FlowRow, dict[str, object]]](), dict[int, dict[str, object]]()
    for flow in flows:
        try:
            found = due_of(heartbeat, flow, now)
            changes[flow.id] = {"id": flow.id, **_moved_on(heartbeat, flow, found, now)}
        except ScheduleError as error:  # the row was changed by hand
            disable(session, flow.id, str(error), now)
            continue
        if found.slot:
            slots = {"scheduled_for": found.slot, "missed_slots": _missed_slots(flow, found)}
            wanted.append((flow, {**slots, **take(heartbeat, flow, slots, now)}))
    runs = _insert(session, now, wanted)
    if len(runs) < len(wanted):
        refused = {flow.id for flow, _ in wanted} - {run.data_flow_id for run in runs}
        others = _active(refused, _RUN.c.data_flow_id)
        for flow_id in session.connection().scalars(others):
            del changes[flow_id]
    _change(session, _FLOW, [*changes.values()])
    return runs


def _moved_on(heartbeat: Heartbeat, flow: FlowRow, found: Due, now: datetime) -> dict[str, object]:
    """Return where a flow goes on. Its first slot sets its grid and starts its windows."""
    slot, starts = found.slot, flow.window_starts_at
    if slot:
        starts, _ = window_of(heartbeat, flow, slot, now)
    return {
        "next_run_at": found.next_slot,
        "last_slot_at": slot or flow.last_slot_at,
        "window_starts_at": starts,
        "skipped_slots": 0 if slot else _missed_slots(flow, found),
        "updated_at": now,
    }


def _missed_slots(flow: FlowRow, found: Due) -> int:
    return int(min(flow.skipped_slots + found.missed_slots, MAX_BIG_INTEGER))


def _change(session: Session, own: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write changes of flows or runs by one statement."""
    if rows:
        connection = session.connection()
        backend_of(connection).update_rows(connection, own, rows)


def _insert(
    session: Session, now: datetime, wanted: Sequence[tuple[FlowRow, Mapping[str, Any]]]
) -> list[ClaimedRun]:
    """Insert a run for each flow, with these values; return those that the database takes."""
    if not wanted:
        return []
    new = {"created_at": now, "trigger": Trigger.SCHEDULE.value, "attempt": 1}
    rows = [{"data_flow_id": flow.id, **new, **run} for flow, run in wanted]
    active = _active([flow.id for flow, _ in wanted], _RUN.c.claim_id, _RUN.c.id)
    connection = session.connection()
    ids = backend_of(connection).insert_new(connection, _RUN, rows, "claim_id", active)
    pairs = zip(wanted, rows, strict=True)
    return [
        _claimed(flow, {**row, "id": ids[row["claim_id"]]})
        for (flow, _), row in pairs
        if row["claim_id"] in ids
    ]


def _taken(
    heartbeat: Heartbeat, flow: FlowRow, run: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """Return what makes a run ours until its lease ends."""
    start, end = run.get("window_start"), run.get("window_end")
    if end is None:  # else a retry or a backfill, which keeps the window of its slot
        start, end = window_of(heartbeat, flow, run["scheduled_for"], now)
    return {
        "status": RunStatus.IN_PROGRESS.value,
        "claim_id": str(uuid.uuid4()),
        "worker": heartbeat.worker,
        "lease_expires_at": now + timedelta(seconds=heartbeat.settings.lease),
        "window_start": start,
        "window_end": end,
        "started_at": now,
        "updated_at": now,
    }


def _handed_over(
    heartbeat: Heartbeat, flow: FlowRow, run: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """Return what makes a run wait for the worker that gets its message, without a lease."""
    return {
        **_taken(heartbeat, flow, run, now),
        "status": RunStatus.PENDING.value,
        "lease_expires_at": None,
        "started_at": None,
        "sent_at": now,
    }


def _claimed(flow: FlowRow, run: Mapping[str, Any]) -> ClaimedRun:
    known = {**flow._asdict(), "flow_name": flow.name, **run}
    return ClaimedRun(**{name: known[name] for name in ClaimedRun.__slots__})


def _active(flow_ids: Collection[int], *columns: ColumnElement[Any]) -> Select[*tuple[Any, ...]]:
    """Select columns of the runs of these flows that have not ended."""
    return select(*columns).where(_RUN.c.data_flow_id.in_(flow_ids), _RUN.c.active == 1)
