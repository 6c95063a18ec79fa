"""What an operator does to flows, over HTTP or by command, and the validation of the input.

Each function is a step of bookkeeping: it locks the flow's row, and the caller commits. `by` says
who does it, as in "paused by the operator at 10.0.0.1".
"""

from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator
from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ... import errors
from ...core import Heartbeat
from ...db import begin_writing
from ...db.stored import Unreadable
from ...json_values import json_problem
from ...models import NEVER_SCHEDULED, DataFlow, DataFlowRun
from ...registry import Cron, FlowName, Seconds, Zone
from ...runs.execute import execute
from ...runs.request import (
    active_run,
    ask_for_run,
    check_configuration,
    claim_now,
    lock_flow,
    rule_of,
    validate_input,
)
from ...runs.unreadable import require_readable, unreadable_values
from ...schedules.between import read_zone
from ...schedules.rule import first_slot, next_slots, rescheduled

# How long a run that is asked for waits for a worker that a claim reserves, in seconds.
CLAIM_SECONDS = 1.0
# What a flow has before its first slot, and again with a new schedule if it cannot be read.
NO_SLOTS: dict[str, Any] = dict.fromkeys(("last_slot_at", "window_starts_at", "backfill_until"))
NO_SLOTS |= {"next_run_at": NEVER_SCHEDULED, "skipped_slots": 0}


def _storable(given: object) -> object:
    if problem := json_problem(given):
        raise ValueError(problem)
    return given


class FlowChange(BaseModel, extra="forbid"):
    """What may be changed of a flow. `every` is in seconds, `timezone` a name of IANA's."""

    name: FlowName = ""
    enabled: bool = True
    every: Seconds = None
    cron: Cron | None = None
    timezone: Zone = "UTC"
    configuration: Annotated[dict[str, Any], BeforeValidator(_storable)] = {}


class NewFlow(FlowChange):
    """What a flow is made of that no code declares: several may share a `handler`."""

    name: FlowName
    handler: str


def add(session: Session, heartbeat: Heartbeat, given: object, by: str) -> DataFlow:
    """Make a flow of a registered handler. Raises InputError, or NameTakenError."""
    new = validate_input(NewFlow, given)
    if (definition := heartbeat.flows.get(new.handler)) is None:
        known = ", ".join(sorted(heartbeat.flows)) or "none"
        message = f"{new.handler!r} is not registered; these are: {known}"
        raise errors.InputError({"handler": [message]})
    flow = DataFlow(handler=new.handler, description=definition.description, timezone="UTC")
    flow.created_at = heartbeat.clock.now()
    flow.configuration = definition.new_configuration()
    begin_writing(session, heartbeat.waiting_operators)
    for column, value in definition.failure_options().items():
        setattr(flow, column, value)
    _apply(session, heartbeat, flow, new, by)
    flow.next_run_at = first_slot(rule_of(heartbeat, flow), flow.created_at, definition.start)
    return flow


def change(session: Session, heartbeat: Heartbeat, name: str, given: object, by: str) -> DataFlow:
    """Change what `given` names of a flow.

    Raises UnknownFlowError, InputError, or NameTakenError.
    """
    wanted = validate_input(FlowChange, given)
    return _apply(session, heartbeat, lock_flow(session, heartbeat, name), wanted, by)


def reset(session: Session, heartbeat: Heartbeat, name: str) -> DataFlow:
    """Return to the declared schedule. Raises UnknownFlowError, or InputError without one."""
    flow = lock_flow(session, heartbeat, name)
    known = heartbeat.flows.get(flow.handler)
    if known is None or flow.declared_schedule is None:
        raise errors.InputError({"name": [f"no code declares a schedule for {name!r}"]})
    flow.declared_schedule = known.schedule
    declared = FlowChange(every=known.every, cron=known.cron, timezone=known.timezone)
    return _apply(session, heartbeat, flow, declared, "")


def remove(session: Session, heartbeat: Heartbeat, name: str) -> int:
    """Remove a flow and its runs; return how many those were. Raises UnknownFlowError.

    A run in progress commits nothing any more.
    """
    flow = lock_flow(session, heartbeat, name)
    runs = select(func.count()).where(DataFlowRun.data_flow_id == flow.id)
    count = session.scalars(runs).one()
    session.execute(delete(DataFlow).where(DataFlow.id == flow.id))
    return count


def run_now(heartbeat: Heartbeat, name: str) -> int:
    """Ask for a run and return its id: it starts on a free worker, or else with the next beat.

    Raises UnknownFlowError, HandlerNotRegisteredError, or ActiveRunError.
    """
    with heartbeat.executor.free_workers(wait=CLAIM_SECONDS) as workers:
        if not workers.free:
            return heartbeat.transact(
                lambda session: ask_for_run(session, heartbeat, lock_flow(session, heartbeat, name))
            )
        run = claim_now(heartbeat, name)
        workers.taken = 1
    heartbeat.executor.start(partial(execute, heartbeat), run)
    return run.id


def _apply(
    session: Session, heartbeat: Heartbeat, flow: DataFlow, wanted: FlowChange, by: str
) -> DataFlow:
    asked, now, before = wanted.model_fields_set, heartbeat.clock.now(), _schedule_of(flow)
    for name in asked & {"name", "timezone", "configuration"}:
        setattr(flow, name, getattr(wanted, name))
    if "configuration" in asked and flow.handler in heartbeat.flows:
        check_configuration(heartbeat.flows[flow.handler], flow)
    if asked & {"every", "cron"}:  # one of them clears the other
        flow.run_interval, flow.cron = wanted.every, wanted.cron
    if (flow.run_interval is None) == (flow.cron is None):
        raise errors.InputError({"every": ["give either every or cron"]})
    flow.updated_at, name = now, flow.name
    try:
        if asked & {"every", "cron", "timezone"}:
            _follow_schedule(heartbeat, flow, now, before)
        if "enabled" in asked and wanted.enabled:
            _enable(session, heartbeat, flow, now)
        elif "enabled" in asked:
            _disable(session, flow, now, by)
        session.add(flow)
        session.flush()
    except errors.ScheduleError as error:
        raise errors.InputError({_field_of(flow): [str(error)]}) from error
    except IntegrityError as error:
        message = f"there is a flow {name!r} already: choose another name"
        raise errors.NameTakenError(message) from error
    return flow


def _field_of(flow: DataFlow) -> str:
    """Return which field is wrong where a flow's rule cannot be read."""
    try:
        read_zone(flow.timezone)
    except errors.ScheduleError:
        return "timezone"
    return "cron" if flow.cron else "every"


def _schedule_of(flow: DataFlow) -> tuple[object, ...]:
    return flow.run_interval, flow.cron, flow.timezone


def _follow_schedule(
    heartbeat: Heartbeat, flow: DataFlow, now: datetime, before: tuple[object, ...]
) -> None:
    """Set the next slot if the schedule is not what it was before, or a slot cannot be read."""
    unreadable = NO_SLOTS.keys() & unreadable_values(flow).keys()
    for name in unreadable:
        setattr(flow, name, NO_SLOTS[name])
    if unreadable or _schedule_of(flow) != before:
        flow.next_run_at = rescheduled(rule_of(heartbeat, flow), flow.last_slot_at, now)


def _enable(session: Session, heartbeat: Heartbeat, flow: DataFlow, now: datetime) -> None:
    """Enable a flow. Raises ScheduleError, or InputError if it or its run cannot be read."""
    if isinstance(flow.enabled, Unreadable):
        flow.enabled = False
    require_readable(flow)
    require_readable(active_run(session, flow))
    read_zone(flow.timezone)
    # Nobody missed the slots that passed meanwhile: the last of them is enough.
    once = replace(rule_of(heartbeat, flow), catch_up="once")
    begin = min(flow.created_at, now) if flow.next_run_at == NEVER_SCHEDULED else flow.next_run_at
    [slot] = next_slots(once, begin, now, 1)
    if flow.enabled is False:
        flow.next_run_at = slot
    flow.enabled, flow.disabled_reason = True, None


def _disable(session: Session, flow: DataFlow, now: datetime, by: str) -> None:
    waiting = DataFlowRun.pending().where(DataFlowRun.data_flow_id == flow.id)
    for run in session.scalars(waiting):
        run.fail(errors.Cancelled(f"its flow was {by}"), now)
        flow.last_run_at, flow.last_run_status = now, run.status
    flow.enabled, flow.disabled_reason = False, by
