"""What an operator does to flows, by HTTP or by command, and the one check of what is asked for.

Each function is a step of bookkeeping: it locks the flow's row, and the caller commits. `by` says
who does it, as in "paused by the operator at 10.0.0.1".
"""

from collections import defaultdict
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from json import JSONDecodeError
from typing import TypeVar

from pydantic import BaseModel, JsonValue, ValidationError
from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, defer

from . import errors
from .core import Heartbeat
from .db import begin_writing
from .models import AT_ONCE, DataFlow, DataFlowRun, RunStatus, Trigger
from .registry import Cron, FlowDefinition, FlowName, Seconds, Zone
from .runs.claim import take_pending
from .runs.execute import execute
from .runs.run import ClaimedRun, Window
from .schedules.rule import Rule, first_slot, next_slots, rescheduled

_Input = TypeVar("_Input", bound=BaseModel)


class FlowChange(BaseModel, extra="forbid", allow_inf_nan=False):
    """What may be changed of a flow. `every` is in seconds, `timezone` a name of IANA's."""

    name: FlowName = ""
    enabled: bool = True
    every: Seconds = None
    cron: Cron | None = None
    timezone: Zone = "UTC"
    configuration: dict[str, JsonValue] = {}


class NewFlow(FlowChange):
    """What a flow is made of that no code declares: several may share a `handler`."""

    name: FlowName
    handler: str


def add(session: Session, heartbeat: Heartbeat, given: object, by: str) -> DataFlow:
    """Make a flow of a registered handler. Raises InputError, or NameTakenError."""
    new = _check(NewFlow, given)
    if (definition := heartbeat.flows.get(new.handler)) is None:
        known = ", ".join(sorted(heartbeat.flows)) or "none"
        message = f"{new.handler!r} is not registered; these are: {known}"
        raise errors.InputError({"handler": [message]})
    flow = DataFlow(handler=new.handler, description=definition.description, timezone="UTC")
    flow.created_at = heartbeat.clock.now()
    flow.configuration = definition.new_configuration()
    _apply(session, heartbeat, flow, new, by)
    flow.next_run_at = first_slot(rule_of(heartbeat, flow), flow.created_at, definition.start)
    return flow


def change(session: Session, heartbeat: Heartbeat, name: str, given: object, by: str) -> DataFlow:
    """Change what `given` names of a flow.

    Raises UnknownFlowError, InputError, or NameTakenError.
    """
    wanted = _check(FlowChange, given)
    return _apply(session, heartbeat, lock_flow(session, name), wanted, by)


def reset(session: Session, heartbeat: Heartbeat, name: str) -> DataFlow:
    """Let the declared schedule hold again. Raises UnknownFlowError, or InputError without one."""
    flow = lock_flow(session, name)
    known = heartbeat.flows.get(flow.handler)
    if known is None or flow.declared_schedule is None:
        raise errors.InputError({"name": [f"no code declares a schedule for {name!r}"]})
    flow.declared_schedule = known.schedule
    declared = FlowChange(every=known.every, cron=known.cron, timezone=known.timezone)
    return _apply(session, heartbeat, flow, declared, "")


def remove(session: Session, name: str) -> int:
    """Remove a flow and its runs; return how many those were. Raises UnknownFlowError.

    A run that is under way commits nothing any more.
    """
    flow = lock_flow(session, name)
    runs = select(func.count()).where(DataFlowRun.data_flow_id == flow.id)
    count = session.scalars(runs).one()
    session.execute(delete(DataFlow).where(DataFlow.id == flow.id))
    return count


def run_now(heartbeat: Heartbeat, name: str) -> int:
    """Ask for a run and return its id: it starts on a free worker, or else with the next beat.

    Raises UnknownFlowError, HandlerNotRegisteredError, or ActiveRunError.
    """
    with heartbeat.executor.free_workers() as workers:
        if not workers.free:
            return heartbeat.transact(
                lambda session: ask_for_run(session, heartbeat, lock_flow(session, name))
            )
        run = heartbeat.transact(lambda session: claim_by_hand(session, heartbeat, name))
        workers.taken = 1
    heartbeat.executor.start(partial(execute, heartbeat), run)
    return run.id


def claim_by_hand(session: Session, heartbeat: Heartbeat, name: str) -> ClaimedRun:
    """Ask for a run of the flow called `name`, and claim it at once.

    Raises UnknownFlowError, HandlerNotRegisteredError, or ActiveRunError.
    """
    flow = lock_flow(session, name)
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
    with suppress(JSONDecodeError):  # the run itself fails of that
        _check_configuration(definition, flow)
    unended = select(DataFlowRun).filter_by(data_flow_id=flow.id, active=1)
    run = session.scalars(unended).one_or_none()
    if run is None:
        run = DataFlowRun(data_flow_id=flow.id, created_at=heartbeat.clock.now())
        run.trigger = (Trigger.BACKFILL if window else Trigger.MANUAL).value
        run.window_start, run.window_end = (window.start, window.end) if window else (None, None)
    elif window or (run.status, run.trigger) != (RunStatus.PENDING, Trigger.RETRY):
        raise errors.ActiveRunError(flow.name)
    run.not_before = None
    session.add(run)
    session.flush()
    return run.id


def lock_flow(session: Session, name: str) -> DataFlow:
    """Wait for the flow called `name` and lock it. Raises UnknownFlowError.

    Its configuration is not read: one that cannot be must not keep anybody from mending it.
    """
    begin_writing(session)
    flows = select(DataFlow).options(defer(DataFlow.configuration)).where(DataFlow.name == name)
    flow = session.scalars(flows.with_for_update()).one_or_none()
    if flow is None:
        raise errors.UnknownFlowError(name)
    return flow


def rule_of(heartbeat: Heartbeat, flow: DataFlow) -> Rule:
    """Return the rule of a flow's slots, also of one whose handler is not registered."""
    if definition := heartbeat.flows.get(flow.handler):
        return definition.rule_of(flow)
    return Rule(flow.run_interval, flow.cron, flow.timezone)


def _check(model: type[_Input], given: object, *place: str) -> _Input:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        faults = defaultdict[str, list[str]](list)
        for fault in error.errors(include_url=False, include_context=False):
            text = fault["msg"].removeprefix("Value error, ")
            faults[".".join(map(str, (*place, *fault["loc"])))].append(text)
        raise errors.InputError(faults) from error


def _check_configuration(definition: FlowDefinition, flow: DataFlow) -> None:
    if isinstance(definition.configuration, type):
        _check(definition.configuration, flow.configuration or {}, "configuration")


def _apply(
    session: Session, heartbeat: Heartbeat, flow: DataFlow, wanted: FlowChange, by: str
) -> DataFlow:
    asked, now, before = wanted.model_fields_set, heartbeat.clock.now(), rule_of(heartbeat, flow)
    for name in asked & {"name", "timezone", "configuration"}:
        setattr(flow, name, getattr(wanted, name))
    if "configuration" in asked and flow.handler in heartbeat.flows:
        _check_configuration(heartbeat.flows[flow.handler], flow)
    if asked & {"every", "cron"}:  # one of them clears the other
        flow.run_interval, flow.cron = wanted.every, wanted.cron
    if (flow.run_interval is None) == (flow.cron is None):
        raise errors.InputError({"every": ["give either every or cron"]})
    flow.updated_at, name, rule = now, flow.name, rule_of(heartbeat, flow)
    try:
        if rule != before:
            flow.next_run_at = rescheduled(rule, flow.last_slot_at, now)
        if "enabled" in asked:
            _enable(session, flow, rule, now, "" if wanted.enabled else by)
        session.add(flow)
        session.flush()
    except errors.DeclarationError as error:
        raise errors.InputError({"cron": [str(error)]}) from error
    except IntegrityError as error:
        message = f"there is a flow {name!r} already: choose another name"
        raise errors.NameTakenError(message) from error
    return flow


def _enable(session: Session, flow: DataFlow, rule: Rule, now: datetime, disabled_by: str) -> None:
    if disabled_by:
        waiting = DataFlowRun.pending().where(DataFlowRun.data_flow_id == flow.id)
        for run in session.scalars(waiting):
            run.fail(errors.Cancelled(f"its flow was {disabled_by}"), now)
            flow.last_run_at, flow.last_run_status = now, run.status
    elif flow.enabled is False:
        # Nobody missed the slots that passed meanwhile: the last of them is enough.
        once = replace(rule, catch_up="once")
        begin = flow.created_at if flow.next_run_at == AT_ONCE else flow.next_run_at
        flow.next_run_at = next_slots(once, begin, now, 1)[0]
    flow.enabled, flow.disabled_reason = not disabled_by, disabled_by or None
