"""What is told of a flow: its members, its next slots, and what comes next in a sentence."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Text, and_, cast, func, select, true
from sqlalchemy.orm import Session, defer

from .core import Heartbeat
from .durations import format_every
from .errors import DeclarationError, UnknownFlowError
from .models import AT_ONCE, DataFlow, DataFlowBeat, DataFlowRun, RunStatus
from .operations import rule_of
from .registry import FlowDefinition
from .schedules.between import read_zone
from .schedules.rule import next_slots

# So many times heartbeat.expected_every without a beat, and nobody calls any more.
BEATS_MISSED = 2
MEMBERS = (
    *("name", "handler", "description", "enabled", "cron", "timezone", "last_run_at"),
    *("last_run_status", "last_success_at", "disabled_reason"),
)


def describe(
    heartbeat: Heartbeat, session: Session, name: str | None = None
) -> list[dict[str, Any]]:
    """Return the members of all flows, by name, or of the one called `name` alone.

    Raises UnknownFlowError.
    """
    unended = and_(DataFlowRun.data_flow_id == DataFlow.id, DataFlowRun.active == 1)
    # As text: a configuration that cannot be read must not hide the other flows.
    columns = select(DataFlow, DataFlowRun, cast(DataFlow.configuration, Text))
    rows = columns.outerjoin(DataFlowRun, unended).options(defer(DataFlow.configuration))
    mine = true() if name is None else DataFlow.name == name
    found = session.execute(rows.where(mine).order_by(DataFlow.name)).all()
    if name is not None and not found:
        raise UnknownFlowError(name)
    beat_at = session.scalars(select(func.max(DataFlowBeat.received_at))).one()
    successes = dict(session.execute(select(DataFlow.name, DataFlow.last_success_at)).all())
    return [
        {
            **{member: getattr(flow, member) for member in MEMBERS},
            "every": flow.run_interval and format_every(flow.run_interval),
            "configuration": _read(configuration),
            "next_run_at": flow.next_run_at if flow.enabled else None,
            "why": next(_answers(heartbeat, flow, run, beat_at, successes)),
            "next_slots": _slots(heartbeat, flow),
        }
        for flow, run, configuration in found
    ]


def _answers(
    heartbeat: Heartbeat,
    flow: DataFlow,
    run: DataFlowRun | None,
    beat_at: datetime | None,
    successes: Mapping[str, datetime | None],
) -> Iterator[str]:
    """Yield what stands in the way of the next run, gravest first, and at last when it comes.

    `run` is the flow's run that has not ended, `beat_at` when the last beat came; `successes` has
    when each flow last succeeded.
    """
    now = heartbeat.clock.now()
    if run and run.status == RunStatus.IN_PROGRESS:
        yield f"Run {run.id} is under way since {_at(flow, run.started_at or now)}."
    if flow.handler not in heartbeat.flows:
        yield f"Its handler {flow.handler!r} is not registered: no code in flows/ declares it."
    if not flow.enabled and run is None:  # a run that was asked for goes ahead all the same
        yield f"It is disabled: {flow.disabled_reason or 'nobody said why'}."
    if beat_at is None:
        yield "No beat has come yet: let a scheduler call the heartbeat."
    elif (now - beat_at).total_seconds() > BEATS_MISSED * heartbeat.settings.expected_every:
        minutes = (now - beat_at) // timedelta(minutes=1)
        yield f"No beat has come for {minutes} minutes: see whether the scheduler still calls."
    definition, slots = heartbeat.flows[flow.handler], _slots(heartbeat, flow)
    if run and run.not_before and run.not_before > now:
        retry = f"Retry {run.attempt - 1} of {definition.retries}"
        yield f"{retry} waits until {_at(flow, run.not_before)}."
    if run:
        yield f"Run {run.id} waits for a free worker: the next beat starts it."
    yield from _of_slots(definition, flow, slots, now, successes)


def _of_slots(
    definition: FlowDefinition,
    flow: DataFlow,
    slots: list[datetime],
    now: datetime,
    successes: Mapping[str, datetime | None],
) -> Iterator[str]:
    if not slots:
        yield "Its schedule cannot be read: give it another one."
    if slots[0] > now:
        window = f", in its window {definition.between}" if definition.between else ""
        yield f"Not due until {_at(flow, slots[0])}{window}."
    due, since = f"Due since {_at(flow, slots[0])}", flow.last_success_started_at or AT_ONCE
    if missing := [name for name in definition.after if (successes.get(name) or AT_ONCE) <= since]:
        yield f"{due}, but it waits for a success of {' and '.join(missing)}."
    if flow.held_because:
        yield f"{due}, but its condition holds it back: {flow.held_because}."
    yield f"{due}: the next beat runs it."


def _at(flow: DataFlow, moment: datetime) -> str:
    with suppress(DeclarationError):
        moment = moment.astimezone(read_zone(flow.timezone))
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}"


def _slots(heartbeat: Heartbeat, flow: DataFlow) -> list[datetime]:
    """Return the next slots: none while the flow is disabled, or its schedule cannot be read."""
    with suppress(DeclarationError):
        begin = flow.created_at if flow.next_run_at == AT_ONCE else flow.next_run_at
        slots = next_slots(rule_of(heartbeat, flow), begin, heartbeat.clock.now())
        return slots if flow.enabled else []
    return []


def _read(configuration: str | None) -> Any:
    with suppress(ValueError):
        return json.loads(configuration or "{}")
    return None
