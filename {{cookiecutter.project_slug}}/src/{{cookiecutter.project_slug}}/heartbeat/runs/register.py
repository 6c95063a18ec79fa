"""Registration: creates and updates the rows of the flows that are declared in code."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, defer

from ..core import Heartbeat
from ..db import Waiters, begin_writing
from ..definition import FlowDefinition
from ..errors import ScheduleError
from ..migrations import require_current
from ..models import DataFlow
from ..schedules.rule import first_slot, rescheduled
from .retry import OPTIONS
from .unreadable import problem_of

# How many rows are written in one transaction.
BATCH = 1_000

log = logging.getLogger(__name__)


def register(heartbeat: Heartbeat, waiters: Waiters | None = None) -> None:
    """Create missing rows, and adopt changes of the declarations, once in each process.

    waiters: limits the wait for SQLite's write lock; by default, it is that of an operator.

    Safe when many processes do it at once. Raises DatabaseNotReadyError if the database cannot be
    reached or is not at this engine's revision, or DatabaseBusyError.
    """
    if heartbeat.registered.is_set():
        return
    waiters = waiters or heartbeat.waiting_operators
    require_current(heartbeat.engine)
    with heartbeat.session() as session:
        columns = select(DataFlow.name, DataFlow.declared_schedule)
        declared = columns.where(DataFlow.name.in_(heartbeat.flows))
        schedules = dict(session.execute(declared).all())
        options = select(DataFlow.handler, *OPTIONS).distinct()
        recorded = session.execute(options.where(DataFlow.handler.in_(heartbeat.flows))).all()
    changed = set()
    for name, definition in sorted(heartbeat.flows.items()):
        if name not in schedules:
            _insert(heartbeat, definition, waiters)
        elif schedules[name] != definition.schedule:
            changed.add(name)
    if changed:  # without a change, a process starts even while others hold locks
        _adopt_schedules(heartbeat, changed, waiters)
    for handler in sorted({row.handler for row in recorded if _is_stale(heartbeat, row)}):
        _record_options(heartbeat, heartbeat.flows[handler], waiters)
    heartbeat.registered.set()


def _is_stale(heartbeat: Heartbeat, row: Any) -> bool:
    """Return whether a row of a known handler has other options than the code declares."""
    definition = heartbeat.flows.get(row.handler)
    if definition is None:
        return False
    options = definition.failure_options()
    return any(getattr(row, column) != value for column, value in options.items())


def _record_options(heartbeat: Heartbeat, definition: FlowDefinition, waiters: Waiters) -> None:
    """Write the options that take effect after a failure to all rows of a handler.

    Each batch is a transaction of its own, since a handler may have a million rows.
    """
    options = definition.failure_options()
    differs = or_(*(column.is_distinct_from(options[column.key]) for column in OPTIONS))
    stale = select(DataFlow.id).where(DataFlow.handler == definition.name, differs)
    stale = stale.order_by(DataFlow.id).limit(BATCH)

    def step(session: Session, after: int) -> Sequence[int]:
        begin_writing(session, waiters)
        # Found before they are locked: a search that locks would wait for each batch of a process
        # that does the same, until its time is up.
        ids = session.scalars(stale.where(DataFlow.id > after)).all()
        if ids:
            rows = update(DataFlow).where(DataFlow.id.in_(ids))
            session.execute(rows.values(updated_at=heartbeat.clock.now(), **options))
        return ids

    last = 0
    while ids := heartbeat.transact(partial(step, after=last)):
        last = ids[-1]


def new_row(definition: FlowDefinition, now: datetime) -> DataFlow:
    """Return a row for a new flow of this handler, still without a name and a schedule."""
    return DataFlow(
        handler=definition.name,
        description=definition.description,
        configuration=definition.new_configuration(),
        **definition.failure_options(),
        alarm_check_at=now if definition.expect_success_within else None,
        created_at=now,
        updated_at=now,
    )


def declared_row(definition: FlowDefinition, now: datetime) -> DataFlow:
    """Return the row for a flow that is new in the code."""
    flow = new_row(definition, now)
    flow.name = definition.name
    flow.declared_schedule = definition.schedule
    _set_schedule(flow, definition)
    flow.next_run_at = first_slot(definition.rule, now, definition.start)
    return flow


def _insert(heartbeat: Heartbeat, definition: FlowDefinition, waiters: Waiters) -> None:
    flow = declared_row(definition, heartbeat.clock.now())
    # Another process may have inserted the same row.
    with suppress(IntegrityError):
        with heartbeat.session() as session:
            begin_writing(session, waiters)
            session.add(flow)
        name = definition.name
        log.info("flow %s is registered: %s", name, definition.schedule, extra={"flow": name})


def _set_schedule(flow: DataFlow, definition: FlowDefinition) -> None:
    flow.run_interval = definition.every
    flow.cron = definition.cron
    flow.timezone = definition.timezone


def _adopt_schedules(heartbeat: Heartbeat, changed: set[str], waiters: Waiters) -> None:
    """Adopt schedules that were changed in code, unless an operator has changed them since."""
    declared = select(DataFlow).where(DataFlow.name.in_(changed), DataFlow.handler == DataFlow.name)
    # Without the configuration: an unreadable one is reported by the flow's runs.
    rows = declared.options(defer(DataFlow.configuration)).order_by(DataFlow.id).with_for_update()
    lines: list[tuple[str, str, str]] = []
    with heartbeat.session() as session:
        begin_writing(session, waiters)
        now = heartbeat.clock.now()
        for row in session.scalars(rows):
            definition = heartbeat.flows[row.name]
            if row.declared_schedule == definition.schedule or problem_of(row):
                continue
            # The row may have been changed by hand.
            outcome = "keeps its own schedule; the code now declares"
            with suppress(ScheduleError):
                if str(definition.rule_of(row)) == row.declared_schedule:
                    _set_schedule(row, definition)
                    row.next_run_at = rescheduled(definition.rule, row.last_slot_at, now)
                    outcome = "has adopted the schedule that the code now declares"
            row.declared_schedule = definition.schedule
            row.updated_at = now
            lines.append((row.name, outcome, definition.schedule))
    for line in lines:
        log.info("flow %s %s: %s", *line, extra={"flow": line[0]})
