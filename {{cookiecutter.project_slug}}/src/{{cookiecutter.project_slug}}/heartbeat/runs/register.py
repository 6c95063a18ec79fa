"""Registering: flows that are declared in code get their rows, once a process."""

from contextlib import suppress

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import defer

from ..core import Heartbeat
from ..db import begin_writing
from ..errors import DeclarationError
from ..migrations import require_current
from ..models import DataFlow
from ..registry import FlowDefinition
from ..schedules.rule import first_slot, rescheduled


def register(heartbeat: Heartbeat) -> None:
    """Make the rows that are missing, and take over schedules that changed in the code.

    Done by the first use of the engine in a process; safe when many processes do it at once.
    Raises DatabaseNotReadyError when the database is away or not at this engine's revision.
    """
    if heartbeat.registered.is_set():
        return
    require_current(heartbeat.engine)
    with heartbeat.session() as session:
        columns = select(DataFlow.name, DataFlow.declared_schedule)
        known = dict(session.execute(columns).all())
    changed = set()
    for name, definition in sorted(heartbeat.flows.items()):
        if name not in known:
            _insert(heartbeat, definition)
        elif known[name] != definition.schedule:
            changed.add(name)
    if changed:  # else nothing is locked: a process may start while others write
        _take_over(heartbeat, changed)
    heartbeat.registered.set()


def _insert(heartbeat: Heartbeat, definition: FlowDefinition) -> None:
    now = heartbeat.clock.now()
    flow = DataFlow(
        name=definition.name,
        handler=definition.name,
        description=definition.description,
        configuration=definition.new_configuration(),
        run_interval=definition.every,
        cron=definition.cron,
        timezone=definition.timezone,
        next_run_at=first_slot(definition.rule_of(definition), now, definition.start),
        declared_schedule=definition.schedule,
        created_at=now,
        updated_at=now,
    )
    # Where another process was faster, its row is as good.
    with suppress(IntegrityError), heartbeat.session() as session:
        session.add(flow)


def _take_over(heartbeat: Heartbeat, changed: set[str]) -> None:
    """Follow schedules changed in code, unless an operator has changed the row's since."""
    declared = select(DataFlow).where(DataFlow.name.in_(changed), DataFlow.handler == DataFlow.name)
    # Not the configuration: one that cannot be read is the matter of its own flow's runs.
    rows = declared.options(defer(DataFlow.configuration)).order_by(DataFlow.id).with_for_update()
    with heartbeat.session() as session:
        begin_writing(session)
        now = heartbeat.clock.now()
        for row in session.scalars(rows):
            definition = heartbeat.flows[row.name]
            if row.declared_schedule == definition.schedule:
                continue
            # What somebody wrote into the row by hand may be no schedule.
            with suppress(DeclarationError):
                if str(definition.rule_of(row)) == row.declared_schedule:
                    row.run_interval, row.cron = definition.every, definition.cron
                    row.timezone = definition.timezone
                    row.next_run_at = rescheduled(definition.rule_of(row), row.last_slot_at, now)
            row.declared_schedule = definition.schedule
            row.updated_at = now
