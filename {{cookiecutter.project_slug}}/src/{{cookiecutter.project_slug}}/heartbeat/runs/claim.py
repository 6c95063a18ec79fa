"""Claiming: runs are taken, each by one process alone, in a transaction of its own.

Lock order here and everywhere: the flow's row, then the run's, by id. Who inserts a run holds the
lock of its flow.
"""

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, defer

from ..core import Heartbeat
from ..db import begin_writing
from ..errors import ActiveRunError, HandlerNotRegisteredError, UnknownFlowError
from ..models import DataFlow, DataFlowRun, RunStatus, Trigger
from ..schedules.every import Due, anchored_anew, is_ahead, latest_due
from .due import due_flows, pending_runs

# The configuration is left to the run: one that cannot be read must fail its own flow, and not
# the claim of all.
_READ = defer(DataFlow.configuration, raiseload=True)


def claim(session: Session, heartbeat: Heartbeat, most: int) -> list[DataFlowRun]:
    """Claim at most `most` runs: first what is pending, then what is due, most overdue first.

    The caller commits; then the runs, with their flows, are this process's to execute. Rows that
    another process holds are passed over, not waited for, so an empty list does not mean that
    nothing is due.
    """
    begin_writing(session)
    runs = _take_pending(session, heartbeat, most)
    if len(runs) < most:
        runs += _take_due(session, heartbeat, most - len(runs))
    return runs


def claim_by_hand(session: Session, heartbeat: Heartbeat, name: str) -> DataFlowRun:
    """Make a manual run of the flow called `name` and claim it at once; its grid stays.

    The caller commits. Raises UnknownFlowError, HandlerNotRegisteredError, or ActiveRunError
    while a run of the flow is pending or in progress.
    """
    begin_writing(session)
    flow = session.scalars(
        select(DataFlow).options(_READ).where(DataFlow.name == name).with_for_update()
    ).one_or_none()
    now = heartbeat.clock.now()
    if flow is None:
        raise UnknownFlowError(name)
    if flow.handler not in heartbeat.flows:
        raise HandlerNotRegisteredError(name, flow.handler)
    if _busy(session, [flow]):
        raise ActiveRunError(name)
    run = DataFlowRun(data_flow=flow, trigger=Trigger.MANUAL.value, created_at=now)
    session.add(_take(heartbeat, run, now))
    session.flush()
    return run


def anchor_anew(session: Session, heartbeat: Heartbeat) -> None:
    """Let the grids of flows begin again now whose last slot lies ahead of the clock.

    It was set back, and their next slot is more than an interval away. Their windows stay empty
    until the clock passes the end of the last one. The caller commits.
    """
    begin_writing(session)
    flows = _lock(session, *DataFlow.is_ahead(heartbeat.clock.now()))
    now = heartbeat.clock.now()
    for flow in flows:
        # Asked again: this process may have stood still, and others have claimed meanwhile.
        if flow.run_interval and flow.last_slot_at and is_ahead(flow.last_slot_at, now):
            anchor = anchored_anew(flow.last_slot_at, flow.run_interval, now)
            flow.next_run_at = flow.last_slot_at = anchor
            flow.updated_at = now


def _take_pending(session: Session, heartbeat: Heartbeat, most: int) -> list[DataFlowRun]:
    """Take the pending runs of those flows whose rows nobody else holds."""
    conditions = pending_runs(heartbeat.flows, heartbeat.clock.now())
    waiting = session.scalars(
        select(DataFlowRun.data_flow_id)
        .join(DataFlowRun.data_flow)
        .where(*conditions)
        .order_by(DataFlowRun.id)
        .limit(most)
    ).all()
    if not waiting:
        return []
    flows = _lock(session, DataFlow.id.in_(waiting))
    now = heartbeat.clock.now()
    # Read again under the lock: another process may have taken them since.
    runs = session.scalars(
        select(DataFlowRun)
        .join(DataFlowRun.data_flow)
        .where(DataFlowRun.data_flow_id.in_([flow.id for flow in flows]), *conditions)
        .order_by(DataFlowRun.data_flow_id)
    ).all()
    return [_take(heartbeat, run, now) for run in runs]


def _take_due(session: Session, heartbeat: Heartbeat, most: int) -> list[DataFlowRun]:
    """Make and take the run of each flow that is due and free, and move its grid on."""
    flows = _lock(session, *due_flows(heartbeat.flows, heartbeat.clock.now()), most=most)
    # Read when the rows are ours: others may have run them while this process stood still.
    now = heartbeat.clock.now()
    # Asked again under the lock: the statement above may have looked before the lock was ours.
    busy = _busy(session, flows)
    free = [flow for flow in flows if flow.id not in busy]
    try:
        with session.begin_nested():
            return [_take_slot(session, heartbeat, flow, now) for flow in free]
    except IntegrityError:
        return [run for flow in free for run in _take_slot_alone(session, heartbeat, flow, now)]


def _take_slot_alone(
    session: Session, heartbeat: Heartbeat, flow: DataFlow, now: datetime
) -> list[DataFlowRun]:
    """Take one flow's slot, or pass over it where the database refuses the run."""
    try:
        with session.begin_nested():
            return [_take_slot(session, heartbeat, flow, now)]
    except IntegrityError:
        if not _busy(session, [flow]):
            # The slot has its run already, made by somebody else: the grid moves past it.
            _move_on(flow, now)
        return []


def _take_slot(
    session: Session, heartbeat: Heartbeat, flow: DataFlow, now: datetime
) -> DataFlowRun:
    due = _move_on(flow, now)
    run = DataFlowRun(
        data_flow=flow,
        trigger=Trigger.SCHEDULE.value,
        scheduled_for=due.slot,
        missed_slots=due.missed_slots,
        created_at=now,
    )
    session.add(_take(heartbeat, run, now))
    return run


def _move_on(flow: DataFlow, now: datetime) -> Due:
    """Set the flow's next slot and return the one that is due. The first claim sets the grid."""
    first = flow.last_slot_at is None
    due = latest_due(flow.next_run_at, flow.run_interval or 0, now, first=first)
    flow.next_run_at, flow.last_slot_at, flow.updated_at = due.next_slot, due.slot, now
    return due


def _take(heartbeat: Heartbeat, run: DataFlowRun, now: datetime) -> DataFlowRun:
    """Turn a pending run into one that is in progress, and ours until its lease ends."""
    run.status = run.status or RunStatus.PENDING.value
    run.start(now)
    run.claim_id = str(uuid.uuid4())
    run.worker = heartbeat.worker
    run.lease_expires_at = now + timedelta(seconds=heartbeat.settings.lease)
    run.updated_at = now
    flow = run.data_flow  # read here in any case, for those to whom the run goes without a session
    if run.window_end is None:  # else a retry or a backfill, which keeps the window of its slot
        run.window_start, run.window_end = _window(flow, run.scheduled_for, now)
    return run


def _window(flow: DataFlow, slot: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    """Return from where to where a run that is claimed `now` works.

    It begins where the last successful one ended, so that windows meet whatever failed between;
    the first one begins an interval before its slot. It ends at the slot, or now where that is
    earlier; never before it begins.
    """
    end = min(slot or now, now)
    if flow.window_starts_at is None:
        flow.window_starts_at = end - timedelta(seconds=flow.run_interval or 0)
    return flow.window_starts_at, max(flow.window_starts_at, end)


def _lock(
    session: Session, *conditions: ColumnElement[bool], most: int | None = None
) -> Sequence[DataFlow]:
    """Lock the flows that fulfil `conditions` and that nobody else holds."""
    return session.scalars(
        select(DataFlow)
        .options(_READ)
        .where(*conditions)
        # By this column alone: its index then yields the rows in order, and no others are locked.
        .order_by(DataFlow.next_run_at if most else DataFlow.id)
        .limit(most)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    ).all()


def _busy(session: Session, flows: Iterable[DataFlow]) -> set[int]:
    """Return the ids of those flows that have a run pending or in progress."""
    return set(
        session.scalars(
            select(DataFlowRun.data_flow_id).where(
                DataFlowRun.data_flow_id.in_([flow.id for flow in flows]), DataFlowRun.active == 1
            )
        )
    )
