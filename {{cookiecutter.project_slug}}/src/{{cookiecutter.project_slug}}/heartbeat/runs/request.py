"""Requested runs: by an operator, by a command, or for a window of a backfill.

Functions with a `session` are steps within a transaction, which the caller commits.
"""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import errors
from ..core import Heartbeat
from ..db import Waiters, begin_writing
from ..definition import FlowDefinition
from ..models import DataFlow, DataFlowRun, RunStatus, Trigger
from ..run import ClaimedRun, Window
from ..schedules.rule import Rule
from ..validation import validate_input
from .claim import take_pending
from .release import remember_claims
from .unreadable import require_readable


def claim_now(heartbeat: Heartbeat, name: str, window: Window | None = None) -> ClaimedRun:
    """Request a run of the flow called `name`, and claim it, in one transaction.

    window: makes it a run of a backfill. Raises UnknownFlowError, HandlerNotRegisteredError, or
    ActiveRunError.
    """
    with remember_claims(heartbeat) as claimed:

        def work(session: Session) -> ClaimedRun:
            claimed.append(claim_by_hand(session, heartbeat, name, window))
            return claimed[-1]

        return heartbeat.transact(work)


def claim_pending(
    heartbeat: Heartbeat,
    run_ids: Sequence[int],
    waiters: Waiters | None = None,
    *,
    hand_over: bool = False,
) -> list[ClaimedRun]:
    """Claim the given runs that are still pending, except those whose rows are locked.

    waiters: limits how many threads wait for SQLite's write lock. hand_over: leave the runs
    `pending`, for the workers of Celery.
    """
    with remember_claims(heartbeat) as claimed:

        def work(session: Session) -> list[ClaimedRun]:
            begin_writing(session, waiters)
            runs = take_pending(session, heartbeat, run_ids, hand_over=hand_over)
            if not hand_over:
                claimed.extend(runs)
            return runs

        return heartbeat.transact(work)


def claim_by_hand(
    session: Session, heartbeat: Heartbeat, name: str, window: Window | None = None
) -> ClaimedRun:
    """Request a run of the flow called `name`, and claim it. The caller commits.

    Raises UnknownFlowError, HandlerNotRegisteredError, or ActiveRunError.
    """
    flow = lock_flow(session, heartbeat, name)
    [run] = take_pending(session, heartbeat, [ask_for_run(session, heartbeat, flow, window)])
    return run


def ask_for_run(
    session: Session, heartbeat: Heartbeat, flow: DataFlow, window: Window | None = None
) -> int:
    """Insert a pending run for a locked flow, and return its id.

    The run is a manual one, or with a `window` one of a backfill. If a retry waits, it becomes due
    at once instead. Raises HandlerNotRegisteredError, InputError if the flow's configuration does
    not fit, or ActiveRunError while another run has not ended.
    """
    run = requested_run(heartbeat, flow, active_run(session, flow), window)
    session.add(run)
    session.flush()
    return run.id


def requested_run(
    heartbeat: Heartbeat, flow: DataFlow, run: DataFlowRun | None, window: Window | None = None
) -> DataFlowRun:
    """Return the pending run of `ask_for_run`, for a flow whose active run is `run`."""
    if (definition := heartbeat.flows.get(flow.handler)) is None:
        raise errors.HandlerNotRegisteredError(flow.name, flow.handler)
    require_readable(flow)
    check_configuration(definition, flow)
    # That of a disabled flow waits until the flow is enabled again.
    is_waiting_retry = run and (run.status, run.trigger) == (RunStatus.PENDING, Trigger.RETRY)
    if run is None:
        run = DataFlowRun(data_flow_id=flow.id, created_at=heartbeat.clock.now())
        run.trigger = Trigger.MANUAL.value
        if window:
            run.trigger = Trigger.BACKFILL.value
            run.window_start = window.start
            run.window_end = window.end
    elif window or not flow.enabled or not is_waiting_retry:
        raise errors.ActiveRunError(flow.name)
    else:  # a change locks its row, whatever it was: no claim of another process comes in between
        run.updated_at = heartbeat.clock.now()
    require_readable(run)
    run.not_before = None
    return run


def lock_flow(session: Session, heartbeat: Heartbeat, name: str) -> DataFlow:
    """Lock the row of the flow called `name`, and return it. It may have Unreadable values.

    Raises UnknownFlowError, or DatabaseBusyError if SQLite's write lock is not free in time.
    """
    begin_writing(session, heartbeat.waiting_operators)
    flows = select(DataFlow).where(DataFlow.name == name)
    flow = session.scalars(flows.with_for_update()).one_or_none()
    if flow is None:
        raise errors.UnknownFlowError(name)
    return flow


def active_run(session: Session, flow: DataFlow) -> DataFlowRun | None:
    """Return the active run of a flow, if it has one."""
    return session.scalars(select(DataFlowRun).filter_by(data_flow_id=flow.id, active=1)).first()


def rule_of(heartbeat: Heartbeat, flow: DataFlow) -> Rule:
    """Return the rule of a flow's slots, also of one whose handler is not registered."""
    if definition := heartbeat.flows.get(flow.handler):
        return definition.rule_of(flow)
    return Rule(flow.run_interval, flow.cron, flow.timezone)


def check_configuration(definition: FlowDefinition, flow: DataFlow) -> None:
    """Raise InputError if the flow's configuration does not fit its declared model."""
    if isinstance(definition.configuration, type):
        validate_input(definition.configuration, flow.configuration or {}, "configuration")
