"""Executing: a claimed run's flow is called, and what it wrote is committed with its success.

One transaction holds the flow's writes, the run's `success` and the flow's `last_run_*`. The update
of the run is guarded by its status and claim: if somebody took the run over, all of it rolls back.
"""

import logging
from typing import Any

from ..core import Heartbeat
from ..db import backend_of
from ..db.flow_session import FlowSession, ending, flow_transaction
from ..definition import FlowDefinition
from ..errors import ClaimLostError, ConfigurationError, HandlerNotRegisteredError, ResultError
from ..events import RunStarted
from ..json_values import json_problem, parse_json
from ..log_context import log_context
from ..models import RunStatus
from ..redaction import describe_error
from ..run import ClaimedRun, Run, Window
from ..run_log import RunLog
from ..tracebacks import is_a, type_name
from .finish import finish, record_failure
from .fork import call_flow
from .successes import Success, record_success

log = logging.getLogger(__name__)


def execute(heartbeat: Heartbeat, run: ClaimedRun) -> RunStatus:
    """Execute a claimed run on this thread, and record its end; return `success` or `failed`."""
    ended = execute_flow(heartbeat, run)
    return record_success(heartbeat, ended) if isinstance(ended, Success) else ended


def execute_flow(heartbeat: Heartbeat, run: ClaimedRun) -> RunStatus | Success:
    """Execute a claimed run on this thread; return its status, or a success to be recorded.

    The success of a run that has used its session is committed with what it wrote. Whatever the
    flow raises, `SystemExit` included, is recorded in a transaction of its own, after its writes
    have been rolled back.
    """
    with log_context(flow=run.flow_name, run_id=run.id):
        return _execute_flow(heartbeat, run)


def _execute_flow(heartbeat: Heartbeat, run: ClaimedRun) -> RunStatus | Success:
    heartbeat.notify(RunStarted(run))
    run_log = RunLog(run.flow_name, heartbeat.secrets)
    began = heartbeat.clock.monotonic()

    def measured() -> dict[str, Any]:
        duration = heartbeat.clock.monotonic() - began
        return {"duration": duration, "log": run_log.text(heartbeat.secrets)}

    try:
        definition = _definition_of(heartbeat, run)
        if definition.timeout and heartbeat.execute_in_subprocess:
            return heartbeat.execute_in_subprocess(run, definition, run_log)
        with flow_transaction(heartbeat.flow_engine) as session:
            result = call_in_session(definition, run, session, run_log)
            values = {"result": result, **measured()}
            has_begun = session.manager is not None
            if not has_begun:
                backend_of(heartbeat.flow_engine).refuse_left_transaction(heartbeat.flow_engine)
            else:
                with ending(session) as connection:
                    now = heartbeat.clock.now()
                    finish(connection, run, RunStatus.SUCCESS, now, **values)
    except ClaimLostError as error:
        backend_of(heartbeat.flow_engine).end_left_transaction(heartbeat.flow_engine)
        log.warning("%s: %s", run.flow_name, error)
        return RunStatus.FAILED
    except BaseException as error:  # noqa: BLE001 - a flow may raise anything; its run is recorded
        # It would keep the record of this run, and all that others write, from SQLite.
        backend_of(heartbeat.flow_engine).end_left_transaction(heartbeat.flow_engine)
        details = describe_error(error, heartbeat.secrets())
        disabled_reason = None
        if is_a(error, ConfigurationError) and error.is_unreadable:
            disabled_reason = str(error)
        return record_failure(heartbeat, run, details | measured(), disabled_reason)
    success = Success(run, heartbeat.clock.now(), values)
    # Where its session has not begun, nothing of the flow may be committed with its success.
    if not has_begun:
        return success
    heartbeat.notify(success.event())
    return RunStatus.SUCCESS


def _definition_of(heartbeat: Heartbeat, run: ClaimedRun) -> FlowDefinition:
    if (definition := heartbeat.flows.get(run.handler)) is None:
        raise HandlerNotRegisteredError(run.flow_name, run.handler)
    return definition


def call_in_session(
    definition: FlowDefinition, run: ClaimedRun, session: FlowSession, run_log: RunLog
) -> object:
    """Call a run's flow with its session, and flush what it wrote; return its result.

    Raises what the flow raises, and what forbids a success, such as a database error that the flow
    has swallowed. From then on the session refuses all other threads.
    """
    result = call_flow(
        definition.function,
        Run(
            id=run.id,
            flow_name=run.flow_name,
            session=session,
            configuration=configuration_of(definition, run.flow_name, run.configuration),
            window=Window(run.window_start, run.window_end),
            scheduled_for=run.scheduled_for,
            attempt=run.attempt,
            log=run_log.logger,
        ),
    )
    session.begin_end()
    if problem := json_problem(result):
        message = (
            f"the flow returned a {type_name(type(result))} that is not JSON for every database "
            f"({problem}): return None, or a dict or list of text, numbers and truth values"
        )
        raise ResultError(message)
    session.flush()
    # Within a savepoint that the flow has left open, an error is not undone either.
    if broken := session.forbidden_by or session.failed_in_savepoint:
        raise broken
    return result


def configuration_of(definition: FlowDefinition, name: str, text: str | None) -> Any:
    """Return `run.configuration` of the flow called `name`, whose row holds `text`.

    Raises ConfigurationError if it is not a JSON object, or does not fit the declared model.
    """
    problem, stored = None, None
    try:
        stored = parse_json("{}" if text is None else text)
        if not isinstance(stored, dict | None):
            problem = f"it is of the type {type(stored).__name__}"
    except (ValueError, RecursionError) as error:
        problem = str(error)
    if problem:
        must_be = f"in the row of flow {name!r} must be a JSON object, such as {{}}: fix it"
        unreadable = ConfigurationError(f"the configuration {must_be} ({problem})")
        unreadable.is_unreadable = True
        raise unreadable
    return definition.configured(stored or {})
