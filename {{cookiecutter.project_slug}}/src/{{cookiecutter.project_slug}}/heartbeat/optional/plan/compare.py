"""Compares the schedules that the code declares with those that the rows of flows store.

Nothing is written: what registration will do is described instead.
"""

from datetime import datetime
from shlex import quote
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ...core import Heartbeat
from ...definition import FlowDefinition
from ...errors import ScheduleError
from ...models import DataFlow
from ...runs.due import UNKNOWN_HANDLER
from ...runs.unreadable import problem_of
from ...schedules.between import read_zone
from ...schedules.rule import Rule, first_slot, rescheduled
from .forecast import Coming, coming_slots
from .members import PlannedFlow

# Not as objects of the ORM, which would take longer than the statement.
_ROWS = select(
    *(DataFlow.name, DataFlow.handler, DataFlow.enabled, DataFlow.disabled_reason),
    *(DataFlow.run_interval, DataFlow.cron, DataFlow.timezone, DataFlow.declared_schedule),
    *(DataFlow.next_run_at, DataFlow.last_slot_at, DataFlow.created_at),
    *(DataFlow.success_count, DataFlow.success_seconds),
)


# A flow with its differences, and its coming slots; None if it does not run.
Compared = tuple[PlannedFlow, Coming | None]


def compare(heartbeat: Heartbeat, session: Session, now: datetime) -> list[Compared]:
    """Return all flows that the code declares or a row stores, by name."""
    rows = session.execute(_ROWS).all()
    missing = heartbeat.flows.keys() - {row.name for row in rows}
    found = [_compare(heartbeat, row, now) for row in rows]
    found += [_not_registered(heartbeat.flows[name], now) for name in missing]
    return sorted(found, key=lambda compared: compared[0].name)


def _not_registered(definition: FlowDefinition, now: datetime) -> Compared:
    name = definition.name
    flow = PlannedFlow(name=name, handler=name, declared=definition.schedule)
    flow.differs("not registered", "It has no row yet: the first beat after a restart adds it.")
    first = first_slot(definition.rule, now, definition.start)
    return flow, coming_slots(definition.rule, first, now, first=True)


def _compare(heartbeat: Heartbeat, row: Any, now: datetime) -> Compared:
    flow = PlannedFlow(name=str(row.name), handler=str(row.handler))
    declared, definition = heartbeat.flows.get(row.name), heartbeat.flows.get(row.handler)
    if declared:
        flow.declared = declared.schedule
    if problem := problem_of(row):
        flow.differs("unreadable", f"The {problem}.")
        return flow, None
    flow.stored = str(Rule(row.run_interval, row.cron, row.timezone))
    if row.success_count > 0:
        flow.usual_seconds = max(row.success_seconds / row.success_count, 0.0)
    if definition is None:
        flow.differs("unknown handler", UNKNOWN_HANDLER.sentence.format(handler=row.handler))
        return flow, None
    if declared and declared is not definition:
        flow.differs(
            "other handler",
            f"The code declares a flow of this name, but its row calls {row.handler!r}: rename the "
            "row or the function.",
        )
    coming = None
    try:
        coming = _coming(flow, definition, row, now)
    except ScheduleError as error:
        flow.differs("invalid schedule", f"Its schedule is invalid, so that no slot runs: {error}")
    if not row.enabled:
        flow.differs("disabled", f"It is disabled: {row.disabled_reason or 'no reason given'}.")
        return flow, None
    return flow, coming


def _coming(flow: PlannedFlow, definition: FlowDefinition, row: Any, now: datetime) -> Coming:
    """Return the slots that come from the next beat on; add how the schedule differs.

    `register` adopts a schedule that was changed in code, unless an operator has changed it since.
    Raises ScheduleError.
    """
    rule, next_slot = definition.rule_of(row), DataFlow.slots_begin(row, now)
    stored, declared = flow.stored, definition.schedule
    if row.handler == row.name and stored != declared:
        if stored == row.declared_schedule:
            why = f"The code declares {declared} now: the first beat after a restart adopts it."
            flow.differs("changed in code", why)
            rule = definition.rule
            next_slot = rescheduled(rule, row.last_slot_at, now)
        else:
            fix = f"`heartbeat reset {quote(row.name)}` returns to the schedule of the code"
            flow.differs("changed by an operator", f"An operator gave it {stored}: {fix}.")
    read_zone(rule.timezone)  # which `every` does not need, but a beat checks it
    return coming_slots(rule, next_slot, now, first=row.last_slot_at is None)
