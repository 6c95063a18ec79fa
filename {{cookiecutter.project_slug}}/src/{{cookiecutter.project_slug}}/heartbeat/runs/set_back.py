"""Follows a clock that was set back, for example because it had been ahead.

Times that were written before then lie in the future: next slots, delays of retries, leases of
processes that died, and the successes that `after` compares. They are moved so that they count from
now. The history stays as it is, and no slot runs again.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Literal

from sqlalchemy import bindparam, or_, select, update
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..db import begin_writing
from ..db.expressions import END_OF_TIME
from ..db.stored import readable
from ..db.types import UTCDateTime
from ..errors import ScheduleError
from ..models import DataFlow, DataFlowRun, RunStatus, table_of
from ..schedules.cron import MINUTE
from ..schedules.every import is_ahead, restarted_grid
from ..schedules.rule import Rule, first_slot, next_after, rescheduled
from .due import FlowRow, query_params
from .finish import disable
from .unreadable import problem_of

# How many flows one transaction changes, and how many times locked rows are tried.
BATCH = 500
TRIES = 3

# On the tables: see `finish.py`.
_FLOW, _RUN = table_of(DataFlow), table_of(DataFlowRun)
_SUCCESSES = _FLOW.c.last_success_at, _FLOW.c.last_success_started_at
# If one of these times is ahead, the row was written before the clock was set back.
_TIMES = _FLOW.c.created_at, _FLOW.c.updated_at, _FLOW.c.last_slot_at, *_SUCCESSES
_LIMIT = bindparam("ahead", type_=UTCDateTime())
_IS_KNOWN = _FLOW.c.handler.in_(bindparam("handlers", expanding=True))
_IS_AHEAD = or_(*(time > _LIMIT for time in _TIMES), _FLOW.c.next_run_at > END_OF_TIME)
# A success slightly ahead proves nothing, but must stay older than the successes further ahead.
_SUCCEEDS_LATER = or_(*(time > bindparam("now", type_=UTCDateTime()) for time in _SUCCESSES))
_FIND_FLOWS = select(_FLOW.c.id, _IS_AHEAD.label("is_ahead"), *_SUCCESSES)
_FIND_FLOWS = _FIND_FLOWS.where(or_(_IS_AHEAD, _SUCCEEDS_LATER), _IS_KNOWN)
_SCHEDULE = _FLOW.c.handler, _FLOW.c.run_interval, _FLOW.c.cron, _FLOW.c.timezone
_LOCK_FLOWS = (
    select(_FLOW.c.id, _FLOW.c.next_run_at, *_SCHEDULE, *_TIMES)
    .where(_FLOW.c.id.in_(bindparam("flows", expanding=True)), _IS_KNOWN)
    .order_by(_FLOW.c.id)
    .with_for_update(skip_locked=True)
)
_LOCK_RUNS = select(*_RUN.c).where(*DataFlowRun.is_ahead(_LIMIT)).order_by(_RUN.c.id)
_LOCK_RUNS = _LOCK_RUNS.with_for_update(skip_locked=True)
_CHANGE_FLOW = update(_FLOW).where(_FLOW.c.id == bindparam("flow"))
_CHANGE_RUN = update(_RUN).where(_RUN.c.id == bindparam("run"))


def follow_clock(heartbeat: Heartbeat) -> None:
    """Make times that are ahead of the clock count from now.

    Safe when many processes do it at once. A row that stays locked is left to a later beat.
    """
    heartbeat.transact(partial(restart_waiting, heartbeat=heartbeat))
    for _ in range(TRIES):
        now = heartbeat.clock.now()
        with heartbeat.session() as session:
            params = query_params(now, heartbeat.flows)
            found = session.connection().execute(_FIND_FLOWS, params).all()
        if not any(flow.is_ahead for flow in found):
            return
        ids, successes = [flow.id for flow in found], _in_order(found, now)
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            step = partial(restart_grids, heartbeat=heartbeat, ids=batch, successes=successes)
            heartbeat.transact(step)


def restart_waiting(session: Session, heartbeat: Heartbeat) -> None:
    """Make the delays of retries and the leases of runs count from now. The caller commits.

    A living process renews its leases when the clock leaps, so the others belong to dead processes.
    """
    begin_writing(session, heartbeat.waiting_beats)
    params = query_params(heartbeat.clock.now(), ())
    runs = session.connection().execute(_LOCK_RUNS, params).all()
    now = heartbeat.clock.now()
    for run in runs:
        if problem_of(run):  # ended when it is claimed or reaped
            continue
        waits = run.status == RunStatus.PENDING
        since = run.created_at if waits else run.updated_at
        if is_ahead(since, now):
            change = {"run": run.id, "created_at": min(run.created_at, now), "updated_at": now}
            name = "not_before" if waits else "lease_expires_at"
            change[name] = now + (getattr(run, name) - since)
            session.connection().execute(_CHANGE_RUN, change)


def restart_grids(
    session: Session,
    heartbeat: Heartbeat,
    ids: Sequence[int],
    successes: Mapping[datetime, datetime],
) -> None:
    """Restart the schedules of those of these flows that are ahead. The caller commits.

    Their windows are empty until the clock reaches the end of the last one. successes: by time of a
    success that is ahead, the time that replaces it.
    """
    begin_writing(session, heartbeat.waiting_beats)
    params = {"flows": ids, "handlers": list(heartbeat.flows)}
    flows = session.connection().execute(_LOCK_FLOWS, params).all()
    # Read after locking: this process may have been suspended while others ran these flows.
    now = heartbeat.clock.now()
    for flow in flows:
        if problem := problem_of(flow):
            disable(session, flow.id, str(problem), now)
            continue
        times = {column.name: getattr(flow, column.name) for column in _TIMES}
        later = {column.name for column in _SUCCESSES if (times[column.name] or now) > now}
        changed = {name: successes.get(times[name], times[name]) for name in later}
        if any(time and is_ahead(time, now) for time in times.values()):
            changed |= {"created_at": min(flow.created_at, now), "updated_at": now}
            # A backfill that goes on sets `backfill_until` again with its next window.
            changed |= {"backfill_until": None, **_restarted(session, heartbeat, flow, now)}
        if changed:
            session.connection().execute(_CHANGE_FLOW, {"flow": flow.id, **changed})


def _restarted(
    session: Session, heartbeat: Heartbeat, flow: FlowRow, now: datetime
) -> dict[str, object]:
    """Return the last and the next slot of a restarted schedule, never later than before."""
    definition = heartbeat.flows[flow.handler]
    try:
        rule = definition.rule_of(flow)
        if flow.run_interval:
            last_slot, next_slot = _on_grid(rule, flow, now, definition.start)
        else:
            last_slot, next_slot = _by_cron(session, rule, flow, now)
    except ScheduleError as error:  # the row was changed by hand
        disable(session, flow.id, str(error), now)
        return {"last_slot_at": min(flow.last_slot_at or now, now)}
    return {"last_slot_at": last_slot, "next_run_at": min(next_slot, flow.next_run_at)}


def _on_grid(
    rule: Rule, flow: FlowRow, now: datetime, start: Literal["now", "next"]
) -> tuple[datetime | None, datetime]:
    """Return the last and the next slot of `every`: of a new grid if the last one is ahead."""
    last_slot = flow.last_slot_at
    if last_slot is None:
        return None, first_slot(rule, now, start)
    if is_ahead(last_slot, now):
        begin = restarted_grid(last_slot, flow.run_interval, now)
        return begin, begin
    return last_slot, rescheduled(rule, last_slot, now)


def _by_cron(
    session: Session, rule: Rule, flow: FlowRow, now: datetime
) -> tuple[datetime | None, datetime]:
    """Return the last slot of cron up to now, and the next one without a run.

    The next one may have passed: slots since the last run by the corrected clock are not lost, nor
    is the slot of the last minute.
    """
    last_slot, since = flow.last_slot_at, now - MINUTE
    slots = select(_RUN.c.scheduled_for).where(_RUN.c.data_flow_id == flow.id)
    if last_slot and is_ahead(last_slot, now):
        latest = slots.where(_RUN.c.scheduled_for <= now).order_by(_RUN.c.scheduled_for.desc())
        last_slot = readable(session.scalar(latest.limit(1)))
        since = last_slot or since
    slot = next_after(rule, max(last_slot or since, since))
    have_run = {*session.scalars(slots.where(_RUN.c.scheduled_for > now))}
    while slot in have_run:
        slot = next_after(rule, slot)
    return last_slot, slot


def _in_order(flows: Iterable[FlowRow], now: datetime) -> dict[datetime, datetime]:
    """Return a time up to `now` for each time of a success after `now`.

    They keep their order, which shows `after` whether a success is new.
    """
    times = (getattr(flow, column.name) for flow in flows for column in _SUCCESSES)
    later = {time for time in times if readable(time) and time > now}
    latest_first = enumerate(sorted(later, reverse=True))
    return {time: now - count * datetime.resolution for count, time in latest_first}
