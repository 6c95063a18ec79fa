"""Describes flows: their members, their next slots, and what happens next in a sentence."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta

from sqlalchemy import func, select, true
from sqlalchemy.orm import Session, aliased

from ...core import Heartbeat
from ...definition import FlowDefinition
from ...durations import format_every
from ...errors import ScheduleError, UnknownFlowError
from ...models import NEVER_SCHEDULED, DataFlow, DataFlowBeat, DataFlowRun, RunStatus, Trigger
from ...models.data_flow import with_active_run
from ...models.meta import time_or_none
from ...models.stored import show
from ...runs.request import rule_of
from ...runs.unreadable import FLOW_KINDS, Problem, disable_apart, problem_with, readable_values
from ...schedules.between import read_zone
from ...schedules.every import is_ahead
from ...schedules.rule import next_slots
from ...settings import BEATS_MISSED
from .members import FlowMembers


def describe(heartbeat: Heartbeat, session: Session, name: str | None = None) -> list[FlowMembers]:
    """Return the members of all flows, by name, or of the one called `name` alone.

    A flow that cannot be read is shown as disabled, and is. Raises UnknownFlowError.
    """
    any_run = aliased(DataFlowRun)
    ran_until = select(func.max(any_run.scheduled_for)).where(any_run.data_flow_id == DataFlow.id)
    rows = with_active_run(select(DataFlow, DataFlowRun, ran_until.scalar_subquery()))
    mine = true() if name is None else DataFlow.name == name
    found = session.execute(rows.where(mine).order_by(DataFlow.name)).all()
    if name is not None and not found:
        raise UnknownFlowError(name)
    beats = select(DataFlowBeat.received_at).order_by(DataFlowBeat.id.desc()).limit(1)
    beat_at = time_or_none(session.scalars(beats).one_or_none())
    successes = _successes(heartbeat, session, {flow.handler for flow, *_ in found})
    described = []
    for flow, run, last_slot in found:
        if problem := problem_with(flow, run):
            if flow.enabled:
                disable_apart(heartbeat, flow.id, run.id if run else None)
            described.append(_without_unreadable(flow, problem))
            continue
        until = time_or_none(last_slot)
        why = next(_answers(heartbeat, flow, run, beat_at, successes, ran_until=until))
        described.append(_members(heartbeat, flow, why))
    return described


def _members(heartbeat: Heartbeat, flow: DataFlow, why: str) -> FlowMembers:
    return FlowMembers(
        name=flow.name,
        handler=flow.handler,
        description=flow.description,
        enabled=flow.enabled,
        every=format_every(flow.run_interval) if flow.run_interval else None,
        cron=flow.cron,
        timezone=flow.timezone,
        configuration=flow.configuration or {},
        next_run_at=flow.next_run_at if flow.enabled else None,
        last_run_at=flow.last_run_at,
        last_run_status=flow.last_run_status,
        last_success_at=flow.last_success_at,
        disabled_reason=flow.disabled_reason,
        why=why,
        next_slots=_slots(heartbeat, flow),
    )


def _without_unreadable(flow: DataFlow, problem: Problem) -> FlowMembers:
    """Return the members of a flow that cannot be read: None for each such value."""
    values = readable_values(flow, FLOW_KINDS)
    reason = (not flow.enabled and values["disabled_reason"]) or str(problem)
    interval = values["run_interval"]
    values |= {
        "name": values["name"] or show(flow.name),
        "every": interval and format_every(interval),
        "enabled": False,
        "disabled_reason": reason,
        "next_run_at": None,
        "why": f"It is disabled: {reason}.",
        "next_slots": [],
    }
    return FlowMembers(**values)


def _successes(
    heartbeat: Heartbeat, session: Session, handlers: set[str]
) -> Mapping[str, datetime | None]:
    """Return when the flows last succeeded that those of some handlers wait for."""
    flows = (heartbeat.flows[handler] for handler in handlers & heartbeat.flows.keys())
    if not (names := {name for flow in flows for name in flow.after}):
        return {}
    columns = select(DataFlow.name, DataFlow.last_success_at).where(DataFlow.name.in_(names))
    return {flow: time_or_none(moment) for flow, moment in session.execute(columns)}


def _answers(
    heartbeat: Heartbeat,
    flow: DataFlow,
    run: DataFlowRun | None,
    beat_at: datetime | None,
    successes: Mapping[str, datetime | None],
    *,
    ran_until: datetime | None,
) -> Iterator[str]:
    """Yield what stands in the way of the next run, gravest first, and at last when it comes.

    `run` is the flow's run that has not ended, `beat_at` when the last beat came; `successes` has
    when each flow last succeeded, and `ran_until` is the latest slot of the flow that has a run.
    """
    now = heartbeat.clock.now()
    if run and run.status == RunStatus.IN_PROGRESS:
        started_at = run.started_at or now
        then = " by a clock that was ahead then" if is_ahead(started_at, now) else ""
        yield f"Run {run.id} has been running since {_at(flow, started_at)}{then}."
    if flow.handler not in heartbeat.flows:
        yield f"Its handler {flow.handler!r} is not registered: no code in flows/ declares it."
    asked_for = {Trigger.MANUAL.value, Trigger.BACKFILL.value}  # which go ahead all the same
    if not flow.enabled and not (run and run.trigger in asked_for):
        yield f"It is disabled: {flow.disabled_reason or 'no reason given'}."
    if beat_at is None:
        yield "No beat has come yet: set up a scheduler that calls the heartbeat."
    elif is_ahead(beat_at, now):
        yield (
            f"The clock was set back: the last beat came at {_at(flow, beat_at)} by it. The next "
            "beat makes all flows follow the clock as it is now."
        )
    elif (now - beat_at).total_seconds() > BEATS_MISSED * heartbeat.settings.expected_every:
        minutes = (now - beat_at) // timedelta(minutes=1)
        yield f"No beat has come for {minutes} minutes: check whether the scheduler still calls."
    definition, slots = heartbeat.flows[flow.handler], _slots(heartbeat, flow)
    if run and run.not_before and run.not_before > now:
        retries = definition.retries if flow.retries is None else flow.retries
        retry = f"Retry {run.attempt - 1} of {retries}"
        yield f"{retry} waits until {_at(flow, run.not_before)}."
    if run:
        yield f"Run {run.id} is pending: the next beat starts it."
    if flow.cron and slots and ran_until and now < ran_until < slots[0]:
        yield (
            f"Not due until {_at(flow, slots[0])}: the clock was set back, and its slots up to "
            f"{_at(flow, ran_until)} have run before."
        )
    yield from _of_slots(definition, flow, slots, now, successes)


def _of_slots(
    definition: FlowDefinition,
    flow: DataFlow,
    slots: list[datetime],
    now: datetime,
    successes: Mapping[str, datetime | None],
) -> Iterator[str]:
    if flow.backfill_until and flow.backfill_until > now:
        yield "Its schedule waits for a backfill that is going on."
    if not slots:
        yield "Its schedule cannot be read: give it another one."
    if slots[0] > now:
        window = f", in its window {definition.between}" if definition.between else ""
        yield f"Not due until {_at(flow, slots[0])}{window}."
    due, since = f"Due since {_at(flow, slots[0])}", flow.last_success_started_at or NEVER_SCHEDULED
    if missing := [
        name for name in definition.after if (successes.get(name) or NEVER_SCHEDULED) <= since
    ]:
        yield f"{due}, but it waits for a success of {' and '.join(missing)}."
    if flow.held_because:
        yield f"{due}, but its condition holds it back: {flow.held_because}."
    yield f"{due}: the next beat runs it."


def _at(flow: DataFlow, moment: datetime) -> str:
    with suppress(ScheduleError, OverflowError):  # at the ends of the calendar
        moment = moment.astimezone(read_zone(flow.timezone))
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}"


def _slots(heartbeat: Heartbeat, flow: DataFlow) -> list[datetime]:
    """Return the next slots: none while the flow is disabled, or its schedule cannot be read."""
    with suppress(ScheduleError):
        now = heartbeat.clock.now()
        begin = (
            min(flow.created_at, now) if flow.next_run_at == NEVER_SCHEDULED else flow.next_run_at
        )
        slots = next_slots(rule_of(heartbeat, flow), begin, now)
        return slots if flow.enabled else []
    return []
