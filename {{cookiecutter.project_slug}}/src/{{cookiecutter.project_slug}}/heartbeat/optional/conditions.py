"""Optional: flows that wait for others (`after`), or for a condition of their own (`when`)."""

import logging
from collections.abc import Mapping
from datetime import datetime
from graphlib import CycleError, TopologicalSorter
from weakref import WeakKeyDictionary

from pyramid.config import Configurator
from pyramid.events import ApplicationCreated
from sqlalchemy import ColumnElement, and_, func, literal, or_, select, update
from sqlalchemy.orm import aliased

from ..core import Heartbeat
from ..db import backend_of
from ..db.flow_session import flow_transaction
from ..db.types import UTCDateTime
from ..definition import FlowDefinition
from ..errors import ConfigurationError, DeclarationError, ScheduleError
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
from ..validation import did_you_mean

# A condition that takes longer, in seconds, is worth a line in the log: all of the beat waits.
LONG = 1.0
# The flows whose conditions are being asked at this moment.
_asking: WeakKeyDictionary[Heartbeat, set[int]] = WeakKeyDictionary()

log = logging.getLogger(__name__)


def includeme(config: Configurator) -> None:
    """Apply `after` to claims, and ask `when` in beats.

    When all flows are known, making the application raises DeclarationError for an `after` that
    names none, or that waits for itself.
    """
    heartbeat = config.registry["heartbeat"]
    heartbeat.check_conditions = check_conditions

    def wire(_event: ApplicationCreated) -> None:
        flows = _in_order(heartbeat.flows)
        waits = [flow for flow in flows if flow.after]
        asked = [flow.name for flow in flows if flow.when]
        # Only obstacles that some flow has, to keep claims cheap.
        if waits:
            heartbeat.obstacles += (_after(waits),)
        if asked:
            heartbeat.obstacles += (_when(asked),)

    # Not an action: Pyramid would wrap the error, and show it twice and with another place.
    config.add_subscriber(wire, ApplicationCreated)


def check_conditions(heartbeat: Heartbeat, verdicts: dict[int, bool]) -> None:
    """Ask the condition of each flow that is due, has one, and has no answer yet; keep why not."""
    handlers = [name for name, flow in heartbeat.flows.items() if flow.when]
    if not handlers:
        return
    now = heartbeat.clock.now()
    columns = (*READ, DataFlow.held_because)
    after = [obstacle.absent for obstacle in heartbeat.obstacles if obstacle.name == "after"]
    unasked = select(*columns).where(*IS_DUE, *after, DataFlow.id.not_in(verdicts))
    with heartbeat.session() as session:
        found = session.execute(unasked, query_params(now, handlers)).all()
    found = [flow for flow in found if problem_of(flow) is None]  # see `claim`
    asking = _asking.setdefault(heartbeat, set())
    for flow in (flow for flow in found if flow.handler in handlers):  # see `claim`
        if flow.id in asking:  # by another beat: one that hangs keeps no other beat
            verdicts[flow.id] = False
            continue
        asking.add(flow.id)
        try:
            reason = _why_not(heartbeat, flow, now)
        finally:
            asking.discard(flow.id)
        verdicts[flow.id] = reason is None
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
        reading_only = backend_of(heartbeat.flow_engine).reading_only
        with flow_transaction(heartbeat.flow_engine) as session, reading_only(session):
            logger = RunLog(flow.name, heartbeat.secrets).logger
            run = Run(0, flow.name, session, configuration, window, slot, 1, logger)
            reason = _reason_of(call_flow(definition.when, run) if definition.when else True)
    except (ConfigurationError, ScheduleError):
        return None  # the run fails with this error
    except BaseException as error:  # noqa: BLE001 - it may raise anything, and no beat breaks
        details = describe_error(error, heartbeat.secrets())
        log.warning("the condition of %s failed:\n%s", flow.name, details["error_backtrace"])
        reason = f"its condition failed: {details['error_type']}: {details['error_message']}"
    seconds = heartbeat.clock.monotonic() - began
    if seconds > LONG:
        log.warning("the condition of %s took %.1f s: beats wait for it", flow.name, seconds)
    return None if reason is None else redact(reason, heartbeat.secrets(), LONGEST_MESSAGE)


def _reason_of(answer: object) -> str | None:
    """Return why a flow must wait, according to the answer of its condition; None if it may run."""
    if isinstance(answer, str) and answer:
        return text_of(answer)
    return None if answer else "its condition says no"


def _in_order(flows: Mapping[str, FlowDefinition]) -> list[FlowDefinition]:
    """Return the flows, each after those it waits for; raise DeclarationError if that cannot be."""
    for flow in flows.values():
        if unknown := [name for name in flow.after if name not in flows]:
            near = did_you_mean(unknown[0], flows) or f"; there are {', '.join(sorted(flows))}"
            message = f"after is {list(flow.after)!r}: no flow is called {unknown[0]!r}{near}"
            raise DeclarationError(f"{flow.place}: flow {flow.name!r}: {message}")
    try:
        order = TopologicalSorter({flow.name: flow.after for flow in flows.values()}).static_order()
        return [flows[name] for name in order]
    except CycleError as error:
        circle = error.args[1]
        flow, message = flows[circle[0]], f"waits for itself by after: {' <- '.join(circle)}"
        raise DeclarationError(f"{flow.place}: flow {flow.name!r}: {message}") from error


def _after(flows: list[FlowDefinition]) -> Obstacle:
    """Return what keeps flows waiting until others have succeeded."""
    succeeded = [
        or_(DataFlow.handler != flow.name, and_(*map(_has_succeeded, flow.after))) for flow in flows
    ]
    sentence = "Due since {slot}, but it waits for a success of {missing}."
    return Obstacle("after", and_(*succeeded), sentence)


def _when(handlers: list[str]) -> Obstacle:
    """Return what keeps flows waiting whose condition said no when it was asked last."""
    says_yes = or_(DataFlow.handler.not_in(handlers), DataFlow.held_because.is_(None))
    sentence = "Due since {slot}, but its condition holds it back: {held_because}."
    return Obstacle("when", says_yes, sentence)


def _has_succeeded(name: str) -> ColumnElement[bool]:
    """Return whether the flow `name` has succeeded since this flow's last success began."""
    other, never = aliased(DataFlow), literal(NEVER_SCHEDULED, UTCDateTime())
    since = func.coalesce(DataFlow.last_success_started_at, never)
    return select(other.id).where(other.name == name, other.last_success_at > since).exists()
