"""Runs that are asked for: by an operator, by a command, or for a window of the past.

Each function is a step within a transaction: it locks the flow's row, and the caller commits.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from .. import errors
from ..core import Heartbeat
from ..db import begin_writing
from ..definition import FlowDefinition
from ..models import DataFlow, DataFlowRun, RunStatus, Trigger
from ..run import ClaimedRun, Window
from ..schedules.rule import Rule
from ..validation import validate_input
from .claim import take_pending
from .release import remember_claims
from .unreadable import require_readable


def claim_now(heartbeat: Heartbeat, name: str) -> ClaimedRun:
    """Ask for a run of the flow called `name`, and claim it at once, in a transaction.

    Raises UnknownFlowError, HandlerNotRegisteredError, or ActiveRunError.
    """
    with remember_claims(heartbeat) as claimed:

        def work(session: Session) -> ClaimedRun:
            claimed.append(claim_by_hand(session, heartbeat, name))
            return claimed[-1]

        return heartbeat.transact(work)


def claim_by_hand(session: Session, heartbeat: Heartbeat, name: str) -> ClaimedRun:
    """Ask for a run of the flow called `name`, and claim it at once. The caller commits.

    Raises UnknownFlowError, HandlerNotRegisteredError, or ActiveRunError.
    """
    flow = lock_flow(session, heartbeat, name)
    ask_for_run(session, heartbeat, flow)
    for run in take_pending(session, heartbeat, [flow.id]):
        return run
    # An attempt that waits for its flow to be enabled again.
    raise errors.ActiveRunError(flow.name)


def ask_for_run(
    session: Session, heartbeat: Heartbeat, flow: DataFlow, window: Window | None = None
) -> int:
    """Make a manual run of a locked flow, leave it pending, and return its id.

    Where an attempt waits, that one is due at once instead. With a `window` it is a backfill's run.
    Raises HandlerNotRegisteredError, InputError where the flow's configuration does not fit, or
    ActiveRunError while another run has not ended.
    """
    if (definition := heartbeat.flows.get(flow.handler)) is None:
        raise errors.HandlerNotRegisteredError(flow.name, flow.handler)
    require_readable(flow)
    check_configuration(definition, flow)
    if (run := active_run(session, flow)) is None:
        run = DataFlowRun(data_flow_id=flow.id, created_at=heartbeat.clock.now())
        run.trigger = (Trigger.BACKFILL if window else Trigger.MANUAL).value
        run.window_start, run.window_end = (window.start, window.end) if window else (None, None)
    elif window or (run.status, run.trigger) != (RunStatus.PENDING, Trigger.RETRY):
        raise errors.ActiveRunError(flow.name)
    require_readable(run)
    run.not_before = None
    session.add(run)
    session.flush()
    return run.id


def lock_flow(session: Session, heartbeat: Heartbeat, name: str) -> DataFlow:
    """Wait for the flow called `name` and lock it. Raises UnknownFlowError.

    Raises DatabaseBusyError where SQLite's write lock is not free in time. What of its row cannot
    be read is Unreadable.
    """
    begin_writing(session, heartbeat.waiting_operators)
    flows = select(DataFlow).where(DataFlow.name == name)
    flow = session.scalars(flows.with_for_update()).one_or_none()
    if flow is None:
        raise errors.UnknownFlowError(name)
    return flow


def active_run(session: Session, flow: DataFlow) -> DataFlowRun | None:
    """Return the run of a flow that has not ended, if there is one."""
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
