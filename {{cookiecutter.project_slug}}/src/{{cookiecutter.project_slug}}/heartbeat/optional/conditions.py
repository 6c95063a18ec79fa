"""Optional: flows that wait for others (`after`), or for a condition of their own (`when`)."""

import logging
from collections.abc import Mapping
from datetime import datetime
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from weakref import WeakKeyDictionary

from pyramid.config import Configurator
from pyramid.events import ApplicationCreated
from sqlalchemy import ColumnElement, and_, func, literal, or_, select, update
from sqlalchemy.orm import aliased

from ..core import Heartbeat
from ..db import backend_of, begin_writing
from ..db.flow_session import flow_transaction
from ..db.types import UTCDateTime
from ..definition import FlowDefinition
from ..errors import ConfigurationError, DeclarationError, ScheduleError
from ..log_context import log_context
from ..models import NEVER_SCHEDULED, DataFlow, Obstacle
from ..redaction import LONGEST_MESSAGE, describe_error, redact
from ..run import Run, Window
from ..run_log import RunLog
from ..runs.claim import READ
from ..runs.due import IS_DUE, FlowRow, due_of, query_params, window_of
from ..runs.execute import configuration_of
from ..runs.fork import call_flow
from ..runs.unreadable import problem_of
from ..tracebacks import text_of

# A condition that takes more than these seconds is logged, since the whole beat waits for it.
LONG = 1.0
# The ids of the flows whose conditions are being checked.
_being_checked: WeakKeyDictionary[Heartbeat, set[int]] = WeakKeyDictionary()

log = logging.getLogger(__name__)


def includeme(config: Configurator) -> None:
    """Apply `after` to claims, and check `when` in beats.

    Making the application raises DeclarationError if an `after` names an unknown flow or is
    circular.
    """
    heartbeat = config.registry["heartbeat"]
    heartbeat.check_conditions = check_conditions

    def wire(_event: ApplicationCreated) -> None:
        flows = _in_order(heartbeat.flows)
        waits = [flow for flow in flows if flow.after]
        conditional = [flow.name for flow in flows if flow.when]
        # No obstacle that no flow has, to keep claims cheap.
        if waits:
            heartbeat.obstacles += (_after(waits),)
        if conditional:
            heartbeat.obstacles += (_when(conditional),)

    # Not an action: Pyramid would wrap the error, and print it twice and with another place.
    config.add_subscriber(wire, ApplicationCreated)


def check_conditions(heartbeat: Heartbeat, verdicts: dict[int, bool]) -> None:
    """Check the conditions of due flows without a verdict, and store why they are false."""
    handlers = [name for name, flow in heartbeat.flows.items() if flow.when]
    if not handlers:
        return
    now = heartbeat.clock.now()
    columns = (*READ, DataFlow.held_because)
    after = [obstacle.absent for obstacle in heartbeat.obstacles if obstacle.name == "after"]
    unchecked = select(*columns).where(*IS_DUE, *after, DataFlow.id.not_in(verdicts))
    with heartbeat.session() as session:
        found = session.execute(unchecked, query_params(now, handlers)).all()
    being_checked = _being_checked.setdefault(heartbeat, set())
    for flow in found:
        # As in `claim`: an unreadable row, or a name that was truncated when it was escaped.
        if problem_of(flow) or flow.handler not in handlers:
            continue
        if flow.id in being_checked:  # by another beat, whose condition may hang
            verdicts[flow.id] = False
            continue
        being_checked.add(flow.id)
        try:
            reason = _why_not(heartbeat, flow, now)
        finally:
            being_checked.discard(flow.id)
        verdicts[flow.id] = reason is None
        if reason != flow.held_because:
            keep = update(DataFlow).where(DataFlow.id == flow.id)
            with heartbeat.session() as session:
                begin_writing(session, heartbeat.waiting_beats)
                session.execute(keep.values(held_because=reason, updated_at=now))


def _why_not(heartbeat: Heartbeat, flow: FlowRow, now: datetime) -> str | None:
    """Call a flow's condition with a read-only session; return why the flow must wait, or None."""
    definition = heartbeat.flows[flow.handler]
    began = heartbeat.clock.monotonic()
    try:
        slot = due_of(heartbeat, flow, now).slot
        window = Window(*window_of(heartbeat, flow, slot, now))
        configuration = configuration_of(definition, flow.name, flow.configuration)
        reading_only = backend_of(heartbeat.flow_engine).reading_only
        with (
            log_context(flow=flow.name),
            flow_transaction(heartbeat.flow_engine) as session,
            reading_only(session),
        ):
            logger = RunLog(flow.name, heartbeat.secrets).logger
            run = Run(0, flow.name, session, configuration, window, slot, 1, logger)
            reason = _reason_of(call_flow(definition.when, run) if definition.when else True)
    except (ConfigurationError, ScheduleError):
        return None  # the run fails with this error
    except BaseException as error:  # noqa: BLE001 - it may raise anything, and the beat goes on
        details = describe_error(error, heartbeat.secrets())
        reason = f"its condition failed: {details['error_type']}: {details['error_message']}"
        if _stored(heartbeat, reason) != flow.held_because:  # else it was logged by a beat before
            log.warning("the condition of %s failed:\n%s", flow.name, details["error_backtrace"])
    seconds = heartbeat.clock.monotonic() - began
    if seconds > LONG:
        log.warning("the condition of %s took %.1f s: beats wait for it", flow.name, seconds)
    return None if reason is None else _stored(heartbeat, reason)


def _stored(heartbeat: Heartbeat, reason: str) -> str:
    return redact(reason, heartbeat.secrets(), LONGEST_MESSAGE)


def _reason_of(answer: object) -> str | None:
    """Return why a flow must wait, from the result of its condition; None if it may run."""
    if isinstance(answer, str) and answer:
        return text_of(answer)
    return None if answer else "its condition is not met"


def _in_order(flows: Mapping[str, FlowDefinition]) -> list[FlowDefinition]:
    """Return the flows, each after those it waits for. Raises DeclarationError."""
    for flow in flows.values():
        if unknown := [name for name in flow.after if name not in flows]:
            near = get_close_matches(unknown[0], flows, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(flows))}"
            message = f"after is {list(flow.after)!r}: no flow is called {unknown[0]!r}; {hint}"
            raise DeclarationError(f"{flow.place}: flow {flow.name!r}: {message}")
    try:
        order = TopologicalSorter({flow.name: flow.after for flow in flows.values()}).static_order()
        return [flows[name] for name in order]
    except CycleError as error:
        cycle = error.args[1]
        flow, message = flows[cycle[0]], f"waits for itself by after: {' <- '.join(cycle)}"
        raise DeclarationError(f"{flow.place}: flow {flow.name!r}: {message}") from error


def _after(flows: list[FlowDefinition]) -> Obstacle:
    """Return the obstacle of flows that wait for a success of others."""
    succeeded = [
        or_(DataFlow.handler != flow.name, and_(*map(_has_succeeded, flow.after))) for flow in flows
    ]
    sentence = "Due since {slot}, but it waits for a success of {missing}."
    return Obstacle("after", and_(*succeeded), sentence)


def _when(handlers: list[str]) -> Obstacle:
    """Return the obstacle of flows whose condition was false at the last check."""
    was_true = or_(DataFlow.handler.not_in(handlers), DataFlow.held_because.is_(None))
    sentence = "Due since {slot}, but its condition holds it back: {held_because}."
    return Obstacle("when", was_true, sentence)


def _has_succeeded(name: str) -> ColumnElement[bool]:
    """Return whether the flow `name` has succeeded since this flow's last success began."""
    other, never = aliased(DataFlow), literal(NEVER_SCHEDULED, UTCDateTime())
    since = func.coalesce(DataFlow.last_success_started_at, never)
    return select(other.id).where(other.name == name, other.last_success_at > since).exists()
