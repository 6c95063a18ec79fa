"""Claiming: runs are taken, each by one process alone, in a transaction of its own.

Lock order here and everywhere: the flow's row, then the run's, by id. Who inserts a run holds the
lock of its flow.
"""

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Text, bindparam, cast, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..db import backend_of, begin_writing
from ..db.expressions import insert_arrays
from ..errors import ScheduleError
from ..models import DataFlow, DataFlowRun, RunStatus, Trigger, table_of
from ..run import ClaimedRun
from .due import IS_DUE, IS_PENDING, FlowRow, due_of, eligibility_filters, query_params, window_of
from .unreadable import disable, keep_readable, problem_of

# What a claim reads of a flow. The configuration as it stands, to be understood by the run: one
# that cannot be must fail its own flow, and not the claim of all.
READ = (
    *(DataFlow.id, DataFlow.name, DataFlow.handler, DataFlow.run_interval, DataFlow.next_run_at),
    *(DataFlow.cron, DataFlow.timezone, DataFlow.last_slot_at, DataFlow.window_starts_at),
    *(DataFlow.skipped_slots, DataFlow.backfill_until, DataFlow.created_at),
    cast(DataFlow.configuration, Text).label("configuration"),
)
MAX_BIG_INTEGER = 2**63 - 1  # of a column
NO_VERDICTS: Mapping[int, bool] = {}
# Nearly always no run is pending: that is asked along with what is due, and without the flows.
_ANY_PENDING = select(DataFlowRun.id).where(IS_PENDING[0]).exists().label("any_pending")
# The index of the last column yields the rows in order, and no others are locked.
_LOCK_DUE = select(*READ, _ANY_PENDING).where(*IS_DUE).order_by(DataFlow.next_run_at)
_LOCK_DUE = _LOCK_DUE.limit(bindparam("most")).with_for_update(skip_locked=True)
_FIND_PENDING = select(DataFlowRun.data_flow_id).join(DataFlowRun.data_flow).where(*IS_PENDING)
_FIND_PENDING = _FIND_PENDING.order_by(DataFlowRun.id).limit(bindparam("most"))
_FIND_ACTIVE = select(DataFlowRun.data_flow_id, DataFlowRun.id).where(
    DataFlowRun.data_flow_id.in_(bindparam("flows", expanding=True)), DataFlowRun.active == 1
)
# On the tables: see `execute.py`.
_FLOW, _RUN = table_of(DataFlow), table_of(DataFlowRun)
_CHANGE_FLOWS = update(_FLOW).where(_FLOW.c.id.in_(bindparam("flows", expanding=True)))
_CHANGE_RUN = update(_RUN).where(_RUN.c.id == bindparam("run"))


def claim(
    session: Session,
    heartbeat: Heartbeat,
    most: int,
    verdicts: Mapping[int, bool] = NO_VERDICTS,
    *,
    one_by_one: bool = False,
) -> list[ClaimedRun]:
    """Claim at most `most` runs: first what is pending, then what is due, most overdue first.

    verdicts: whether flows may run, by id, as far as this beat has checked their conditions.

    The caller commits; then the runs are this process's to execute. Rows that another process holds
    are passed over, not waited for, so an empty list does not mean that nothing is due. Raises
    IntegrityError where the database refuses a run; a claim `one_by_one` passes over that flow.
    """
    begin_writing(session, heartbeat.waiting_beats)
    free, known = eligibility_filters(heartbeat, verdicts), heartbeat.flows
    statement = _LOCK_DUE.where(*free) if free else _LOCK_DUE
    asked = query_params(heartbeat.clock.now(), known) | {"most": most}
    flows, runs = session.connection().execute(statement, asked).all(), list[ClaimedRun]()
    if not flows or flows[0].any_pending:
        waiting = session.connection().scalars(_FIND_PENDING, asked).all()
        runs = take_pending(session, heartbeat, waiting)
        flows = flows[: most - len(runs)]
    # Read when the rows are ours: others may have run them while this process stood still.
    now = heartbeat.clock.now()
    flows = keep_readable(session, now, flows)
    # A name that is too long when it is escaped is stored in part, and belongs to no flow.
    flows = [flow for flow in flows if flow.handler in known]
    # One that came to be due since conditions were asked is asked first.
    flows = [flow for flow in flows if verdicts.get(flow.id, not known[flow.handler].when)]
    if not one_by_one:
        return runs + _take_slots(session, heartbeat, flows, now)
    for flow in flows:
        runs += _take_slot_alone(session, heartbeat, flow, now)
    return runs


def take_pending(
    session: Session, heartbeat: Heartbeat, flow_ids: Sequence[int]
) -> list[ClaimedRun]:
    """Take the pending runs of those flows whose rows nobody else holds. The caller commits."""
    locked, now = _lock(session, DataFlow.id.in_(flow_ids)), heartbeat.clock.now()
    flows = {flow.id: flow for flow in keep_readable(session, now, locked)}
    # Read again under the lock: another process may have taken them since.
    found = session.execute(
        select(*_RUN.c)
        .join(DataFlowRun.data_flow)
        .where(DataFlowRun.data_flow_id.in_(flows), *IS_PENDING)
        .order_by(DataFlowRun.data_flow_id),
        query_params(now, heartbeat.flows),
    ).all()
    runs = list[ClaimedRun]()
    for row in found:
        if problem := problem_of(row):
            disable(session, now, row.data_flow_id, str(problem))
        else:
            flow = flows[row.data_flow_id]
            runs.append(_take(session, heartbeat, flow, row._asdict(), now))
    return runs


def _take(
    session: Session, heartbeat: Heartbeat, flow: FlowRow, row: Mapping[Any, Any], now: datetime
) -> ClaimedRun:
    """Take a pending run."""
    change = _taken(heartbeat, flow, row, now)
    session.execute(_CHANGE_RUN, {"run": row["id"], **change})
    run = _claimed(flow, {**row, **change})
    _start_windows(session, flow, run)
    return run


def _take_slot_alone(
    session: Session, heartbeat: Heartbeat, flow: FlowRow, now: datetime
) -> list[ClaimedRun]:
    """Take one flow's slot, or pass over it where the database refuses the run."""
    try:
        with session.begin_nested():
            return _take_slots(session, heartbeat, [flow], now)
    except IntegrityError:
        if not _active(session, [flow]):
            # The slot has its run already, made by somebody else: the grid moves past it.
            _move_on(session, heartbeat, [flow], now)
        return []


def _take_slots(
    session: Session, heartbeat: Heartbeat, flows: Sequence[FlowRow], now: datetime
) -> list[ClaimedRun]:
    return _insert(session, heartbeat, now, _move_on(session, heartbeat, flows, now))


def _move_on(
    session: Session, heartbeat: Heartbeat, flows: Sequence[FlowRow], now: datetime
) -> list[tuple[FlowRow, dict[str, object]]]:
    """Set the next slot of flows, and return what is due of each. A first claim sets its grid."""
    runs, changes = list[tuple[FlowRow, dict[str, object]]](), dict[int, dict[str, object]]()
    for flow in flows:
        try:
            found = due_of(heartbeat, flow, now)
        except ScheduleError as error:  # the row was changed by hand
            disable(session, now, flow.id, str(error))
            continue
        slot = found.slot
        missed = min(flow.skipped_slots + found.missed_slots, MAX_BIG_INTEGER)
        slots = {"next_run_at": found.next_slot, "last_slot_at": slot or flow.last_slot_at}
        starts = window_of(heartbeat, flow, slot, now)[0] if slot else flow.window_starts_at
        slots |= {"window_starts_at": starts, "skipped_slots": 0 if slot else missed}
        changes[flow.id] = slots
        if slot:
            runs.append((flow, {"scheduled_for": slot, "missed_slots": missed}))
    _change(session, now, changes)
    return runs


def _change(session: Session, now: datetime, changes: Mapping[int, dict[str, object]]) -> None:
    """Write changes of flows, by id: by one statement for all that change alike."""
    alike = defaultdict[tuple[tuple[str, object], ...], list[int]](list)
    for flow_id, change in changes.items():
        alike[(*change.items(),)].append(flow_id)
    for items, flows in alike.items():
        values = {"flows": flows, "updated_at": now, **dict(items)}
        session.connection().execute(_CHANGE_FLOWS, values)


def _insert(
    session: Session,
    heartbeat: Heartbeat,
    now: datetime,
    runs: Sequence[tuple[FlowRow, Mapping[str, object]]],
) -> list[ClaimedRun]:
    """Insert a run for each flow, ours from the start; return them."""
    if not runs:
        return []
    new = {"created_at": now, "trigger": Trigger.SCHEDULE.value, "attempt": 1}
    rows = [
        {"data_flow_id": flow.id, **new, **run, **_taken(heartbeat, flow, run, now)}
        for flow, run in runs
    ]
    connection = session.connection()
    if backend_of(connection).takes_arrays:
        statement = insert_arrays(_RUN, (*rows[0],)).returning(_RUN.c.data_flow_id, _RUN.c.id)
        arrays = {name: [row[name] for row in rows] for name in rows[0]}
        ids = dict(connection.execute(statement, arrays).all())
    else:
        connection.execute(insert(_RUN), rows)
        ids = _active(session, [flow for flow, _ in runs])
    pairs = zip(runs, rows, strict=True)
    return [_claimed(flow, {**row, "id": ids[flow.id]}) for (flow, _), row in pairs]


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


def _claimed(flow: FlowRow, run: Mapping[str, Any]) -> ClaimedRun:
    known = {**flow._asdict(), "flow_name": flow.name, **run}
    return ClaimedRun(**{name: known[name] for name in ClaimedRun.__slots__})


def _start_windows(session: Session, flow: FlowRow, run: ClaimedRun) -> None:
    """Start the flow's windows with this run if it is the first: it may fail."""
    if flow.window_starts_at is None and run.trigger != Trigger.BACKFILL:
        _change(session, run.started_at, {flow.id: {"window_starts_at": run.window_start}})


def _lock(session: Session, *conditions: ColumnElement[bool], **asked: object) -> Sequence[FlowRow]:
    """Lock the flows that fulfil `conditions` and that nobody else holds, by id."""
    statement = select(*READ).where(*conditions).order_by(DataFlow.id)
    return session.connection().execute(statement.with_for_update(skip_locked=True), asked).all()


def _active(session: Session, flows: Sequence[FlowRow]) -> dict[int, int]:
    """Return the ids of the runs of these flows that are pending or in progress, by flow."""
    asked = {"flows": [flow.id for flow in flows]}
    return dict(session.connection().execute(_FIND_ACTIVE, asked).all()) if flows else {}
