"""Optional: flows that wait for others (`after`), or for a condition of their own (`when`)."""

import logging
from collections.abc import Mapping
from datetime import datetime
from graphlib import CycleError, TopologicalSorter

from pyramid.config import PHASE3_CONFIG, Configurator
from sqlalchemy import ColumnElement, and_, func, literal, or_, select, update
from sqlalchemy.orm import aliased

from .core import Heartbeat
from .db import reading_only
from .errors import ConfigurationError, DeclarationError
from .models import AT_ONCE, DataFlow
from .models.meta import UTCDateTime
from .redaction import describe_error
from .registry import FlowDefinition
from .runs.claim import READ
from .runs.due import IS_DUE, FlowRow, asked_at, due_of, window_of
from .runs.execute import configuration_of
from .runs.run import Run, RunLog, Window
from .runs.session import flow_transaction

# A condition that takes longer, in seconds, is worth a line in the log: all of the beat waits.
LONG = 1.0

log = logging.getLogger(__name__)


def includeme(config: Configurator) -> None:
    """Let claims go by `after`, and beats ask `when`. Raises DeclarationError, late, for both."""
    heartbeat = config.registry["heartbeat"]
    heartbeat.ask = ask

    def wire() -> None:
        heartbeat.conditions = tuple(
            or_(DataFlow.handler != flow.name, and_(*map(_has_succeeded, flow.after)))
            for flow in _in_order(heartbeat.flows)
            if flow.after
        )

    config.action("heartbeat conditions", wire, order=PHASE3_CONFIG + 10)


def ask(heartbeat: Heartbeat, answers: dict[int, bool]) -> None:
    """Ask the condition of each flow that is due, has one, and has no answer yet; keep why not."""
    handlers = [name for name, flow in heartbeat.flows.items() if flow.when]
    if not handlers:
        return
    now = heartbeat.clock.now()
    columns = (*READ, DataFlow.held_because)
    unasked = select(*columns).where(*IS_DUE, *heartbeat.conditions, DataFlow.id.not_in(answers))
    with heartbeat.session() as session:
        flows = session.execute(unasked, asked_at(now, handlers)).all()
    for flow in flows:
        reason = _why_not(heartbeat, flow, now)
        answers[flow.id] = reason is None
        if reason != flow.held_because:
            keep = update(DataFlow).where(DataFlow.id == flow.id)
            with heartbeat.session() as session:
                session.execute(keep.values(held_because=reason, updated_at=now))


def _why_not(heartbeat: Heartbeat, flow: FlowRow, now: datetime) -> str | None:
    """Ask a flow's condition with a session that only reads; return why it must wait, or None."""
    definition = heartbeat.flows[flow.handler]
    began = heartbeat.clock.monotonic()
    try:
        slot = due_of(heartbeat, flow, now).slot
        window = Window(*window_of(heartbeat, flow, slot, now))
        configuration = configuration_of(definition, flow.name, flow.configuration)
        with flow_transaction(heartbeat.engine) as session, reading_only(session):
            logger = RunLog(flow.name).logger
            run = Run(0, flow.name, session, configuration, window, slot, 1, logger)
            answer = definition.when(run) if definition.when else True
    except (ConfigurationError, DeclarationError):
        return None  # It runs, and fails of that.
    except BaseException as error:  # noqa: BLE001 - it may raise anything, and no beat breaks
        told = describe_error(error, heartbeat.secrets())
        log.warning("the condition of %s failed:\n%s", flow.name, told["error_backtrace"])
        answer = f"its condition failed: {told['error_type']}: {told['error_message']}"
    seconds = heartbeat.clock.monotonic() - began
    if seconds > LONG:
        log.warning("the condition of %s took %.1f s: beats wait for it", flow.name, seconds)
    if isinstance(answer, str) and answer:
        return answer
    return None if answer else "its condition says no"


def _in_order(flows: Mapping[str, FlowDefinition]) -> list[FlowDefinition]:
    """Return the flows, each after those it waits for; raise DeclarationError if that cannot be."""
    for flow in flows.values():
        if unknown := [name for name in flow.after if name not in flows]:
            message = f"after names {unknown[0]!r}, which no flow is called: {', '.join(flows)} are"
            raise DeclarationError(f"{flow.place}: flow {flow.name!r}: {message}")
    try:
        order = TopologicalSorter({flow.name: flow.after for flow in flows.values()}).static_order()
        return [flows[name] for name in order]
    except CycleError as error:
        circle = error.args[1]
        flow, message = flows[circle[0]], f"waits for itself by after: {' <- '.join(circle)}"
        raise DeclarationError(f"{flow.place}: flow {flow.name!r}: {message}") from error


def _has_succeeded(name: str) -> ColumnElement[bool]:
    """Tell that the flow `name` has had a success since this flow's last success began."""
    other, never = aliased(DataFlow), literal(AT_ONCE, UTCDateTime())
    since = func.coalesce(DataFlow.last_success_started_at, never)
    return select(other.id).where(other.name == name, other.last_success_at > since).exists()
