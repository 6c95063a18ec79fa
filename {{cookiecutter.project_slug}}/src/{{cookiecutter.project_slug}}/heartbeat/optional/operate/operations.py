"""The changes that an operator makes to flows, and the validation of the input.

Each function is one transaction, which locks the flow's row. `pause_reason` is kept with a flow
that it disables, as in "paused by the operator at 10.0.0.1".
"""

from collections.abc import Callable, Mapping
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
from ...definition import Cron, FlowName, Seconds, Zone
from ...json_values import json_problem
from ...models import NEVER_SCHEDULED, DataFlow, DataFlowRun
from ...run import Window
from ...runs.execute import execute
from ...runs.finish import cancel
from ...runs.register import new_row
from ...runs.request import (
    active_run,
    ask_for_run,
    check_configuration,
    claim_now,
    lock_flow,
    rule_of,
)
from ...runs.unreadable import require_readable, unreadable_values
from ...schedules.between import read_zone
from ...schedules.rule import first_slot, next_slots, rescheduled
from ...validation import validate_input
from .members import FlowMembers
from .why import describe

# How many seconds a requested run waits for a worker that another claim has reserved.
CLAIM_SECONDS = 1.0
# The values before the first slot. A new schedule restores each of them that is unreadable.
NO_SLOTS: dict[str, Any] = dict.fromkeys(("last_slot_at", "window_starts_at", "backfill_until"))
NO_SLOTS |= {"next_run_at": NEVER_SCHEDULED, "skipped_slots": 0}


def _storable(given: object) -> object:
    if problem := json_problem(given):
        raise ValueError(problem)
    return given


def _without_defaults(schema: dict[str, Any]) -> None:
    """Take the defaults out of a JSON schema: what is not given stays as it is."""
    for field in schema["properties"].values():
        field.pop("default", None)


class FlowChange(BaseModel, extra="forbid", json_schema_extra=_without_defaults):
    """The changes of a flow. `every` is in seconds, `timezone` an IANA name."""

    name: FlowName = ""
    enabled: bool = True
    every: Seconds = None
    cron: Cron | None = None
    timezone: Zone = "UTC"
    configuration: Annotated[dict[str, Any], BeforeValidator(_storable)] = {}


class NewFlow(FlowChange):
    """A flow that no code declares. Several flows may share a `handler`."""

    name: FlowName
    handler: str


def add(heartbeat: Heartbeat, given: Mapping[str, Any], pause_reason: str = "") -> FlowMembers:
    """Make a flow of a registered handler. Raises InputError, or NameTakenError."""
    new = validate_input(NewFlow, given)
    if (definition := heartbeat.flows.get(new.handler)) is None:
        known = ", ".join(sorted(heartbeat.flows)) or "none"
        message = f"{new.handler!r} is not registered; these are: {known}"
        raise errors.InputError({"handler": [message]})

    def step(session: Session) -> DataFlow:
        begin_writing(session, heartbeat.waiting_operators)
        now = heartbeat.clock.now()
        flow = new_row(definition, now)
        flow.timezone = new.timezone
        _apply(session, heartbeat, flow, new, pause_reason)
        flow.next_run_at = first_slot(definition.rule_of(flow), now, definition.start)
        return flow

    return _transact(heartbeat, step)


def change(
    heartbeat: Heartbeat,
    name: str,
    given: Mapping[str, Any],
    values: Mapping[str, Any] | None = None,
    pause_reason: str = "",
) -> FlowMembers:
    """Change what `given` names of a flow, and these `values` of its configuration.

    Raises UnknownFlowError, InputError, or NameTakenError.
    """
    validate_input(FlowChange, given)  # before anything is locked

    def step(session: Session) -> DataFlow:
        flow = lock_flow(session, heartbeat, name)
        merged = dict(given)
        if values:
            require_readable(flow)
            merged["configuration"] = {**(flow.configuration or {}), **values}
        wanted = validate_input(FlowChange, merged)
        return _apply(session, heartbeat, flow, wanted, pause_reason)

    return _transact(heartbeat, step)


def reset(heartbeat: Heartbeat, name: str) -> FlowMembers:
    """Return to the declared schedule. Raises UnknownFlowError, or InputError without one."""

    def step(session: Session) -> DataFlow:
        flow = lock_flow(session, heartbeat, name)
        known = heartbeat.flows.get(flow.handler)
        if known is None or flow.declared_schedule is None:
            raise errors.InputError({"name": [f"no code declares a schedule for {name!r}"]})
        flow.declared_schedule = known.schedule
        declared = FlowChange(every=known.every, cron=known.cron, timezone=known.timezone)
        return _apply(session, heartbeat, flow, declared, "")

    return _transact(heartbeat, step)


def remove(heartbeat: Heartbeat, name: str) -> int:
    """Remove a flow and its runs; return how many those were. Raises UnknownFlowError.

    The writes of a run in progress are rolled back.
    """

    def step(session: Session) -> int:
        flow = lock_flow(session, heartbeat, name)
        runs = select(func.count()).where(DataFlowRun.data_flow_id == flow.id)
        count = session.scalars(runs).one()
        session.execute(delete(DataFlow).where(DataFlow.id == flow.id))
        return count

    return heartbeat.transact(step)


def run_now(heartbeat: Heartbeat, name: str, window: Window | None = None) -> int:
    """Request a run and return its id: it starts on a free worker, or else with the next beat.

    window: of the past, which a run of a backfill covers. Raises UnknownFlowError,
    HandlerNotRegisteredError, or ActiveRunError.
    """
    with heartbeat.executor.reserve(wait=CLAIM_SECONDS) as room:
        if not room.free:

            def ask(session: Session) -> int:
                flow = lock_flow(session, heartbeat, name)
                return ask_for_run(session, heartbeat, flow, window)

            run_id = heartbeat.transact(ask)
            if heartbeat.hand_over_requested:
                heartbeat.hand_over_requested([run_id])
            return run_id
        run = claim_now(heartbeat, name, window)
        room.taken = 1
    heartbeat.executor.start(partial(execute, heartbeat), run)
    return run.id


def _transact(heartbeat: Heartbeat, step: Callable[[Session], DataFlow]) -> FlowMembers:
    """Do a step in one transaction, and return the members of its flow after it."""

    def work(session: Session) -> FlowMembers:
        [members] = describe(heartbeat, session, step(session).name)
        return members

    return heartbeat.transact(work)


def _apply(
    session: Session, heartbeat: Heartbeat, flow: DataFlow, wanted: FlowChange, pause_reason: str
) -> DataFlow:
    """Write the given fields of `wanted` to a flow. Raises InputError, or NameTakenError."""
    named = wanted.model_fields_set
    now = heartbeat.clock.now()
    for field in named & {"name", "configuration"}:
        setattr(flow, field, getattr(wanted, field))
    if "configuration" in named and flow.handler in heartbeat.flows:
        check_configuration(heartbeat.flows[flow.handler], flow)
    flow.updated_at = now
    name = flow.name  # a failed flush expires it
    try:
        _set_schedule(heartbeat, flow, wanted, now)
        if "enabled" in named:
            if wanted.enabled:
                enable(heartbeat, flow, active_run(session, flow), now)
            else:
                _disable(session, flow, now, pause_reason)
        session.add(flow)
        session.flush()
    except errors.ScheduleError as error:
        raise errors.InputError({_invalid_field(flow): [str(error)]}) from error
    except IntegrityError as error:
        message = f"there is a flow {name!r} already: choose another name"
        raise errors.NameTakenError(message) from error
    return flow


def _invalid_field(flow: DataFlow) -> str:
    """Return the field that makes a flow's rule invalid."""
    try:
        read_zone(flow.timezone)
    except errors.ScheduleError:
        return "timezone"
    return "cron" if flow.cron else "every"


def _set_schedule(heartbeat: Heartbeat, flow: DataFlow, wanted: FlowChange, now: datetime) -> None:
    """Set the schedule, and the next slot if the schedule has changed or a slot is unreadable."""
    named = wanted.model_fields_set
    before = (flow.run_interval, flow.cron, flow.timezone)
    if named & {"every", "cron"}:  # one of them clears the other
        flow.run_interval, flow.cron = wanted.every, wanted.cron
    if "timezone" in named:
        flow.timezone = wanted.timezone
    if (flow.run_interval is None) == (flow.cron is None):
        raise errors.InputError({"every": ["give either every or cron"]})
    if not named & {"every", "cron", "timezone"}:
        return
    unreadable = NO_SLOTS.keys() & unreadable_values(flow).keys()
    for column in unreadable:
        setattr(flow, column, NO_SLOTS[column])
    if unreadable or before != (flow.run_interval, flow.cron, flow.timezone):
        flow.next_run_at = rescheduled(rule_of(heartbeat, flow), flow.last_slot_at, now)


def enable(heartbeat: Heartbeat, flow: DataFlow, run: DataFlowRun | None, now: datetime) -> None:
    """Enable a flow whose active run is `run`. The caller sets `updated_at`.

    Raises ScheduleError, or InputError if the flow or its run cannot be read.
    """
    if isinstance(flow.enabled, Unreadable):
        flow.enabled = False
    require_readable(flow)
    require_readable(run)
    read_zone(flow.timezone)
    # Of the slots that passed while it was disabled, only the last one runs.
    once = replace(rule_of(heartbeat, flow), catch_up="once")
    [slot] = next_slots(once, flow.slots_begin(now), now, 1)
    if flow.enabled is False:
        flow.next_run_at = slot
        flow.enabled_at = flow.alarm_check_at = now
    flow.enabled, flow.disabled_reason = True, None


def _disable(session: Session, flow: DataFlow, now: datetime, reason: str) -> None:
    waiting = DataFlowRun.pending().where(DataFlowRun.data_flow_id == flow.id)
    cancel(session, session.scalars(waiting).all(), f"its flow was {reason}", now)
    flow.enabled, flow.disabled_reason = False, reason
