"""Executing: a claimed run's flow is called, and what it wrote is committed with its success.

One transaction holds the flow's writes, the run's `success` and the flow's `last_run_*`. The update
of the run is guarded by its status and claim: if somebody took the run over, all of it rolls back.
"""

import json
import logging
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, Engine, Update, bindparam, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..errors import ClaimLostError, ConfigurationError, HandlerNotRegisteredError, ResultError
from ..models import DataFlow, DataFlowRun, RunStatus, Trigger, table_of
from ..models.meta import is_postgresql
from ..redaction import describe_error
from ..registry import FlowDefinition
from .lease import kept
from .retry import follow_failure
from .run import ClaimedRun, Run, RunLog, Window
from .session import FlowSession, flow_transaction

log = logging.getLogger(__name__)

# On the tables, since the ORM's way takes half of a short run's time.
_FLOW, _RUN = table_of(DataFlow), table_of(DataFlowRun)
_LEASE = bindparam("lease", type_=_RUN.c.lease_expires_at.type)


def execute(heartbeat: Heartbeat, run: ClaimedRun) -> RunStatus:
    """Execute a claimed run to its end; return `success` or `failed`. Raises nothing.

    Its lease is renewed meanwhile.
    """
    with kept(heartbeat, run):
        return execute_here(heartbeat, run)


def execute_here(heartbeat: Heartbeat, run: ClaimedRun) -> RunStatus:
    """Execute a claimed run on this thread; return `success` or `failed`. Raises nothing.

    Whatever the flow raises, `SystemExit` included, is recorded in a transaction of its own, after
    its writes have been rolled back.
    """
    run_log = RunLog(run.flow_name)
    began = heartbeat.clock.monotonic()

    def measured() -> dict[str, Any]:
        duration = heartbeat.clock.monotonic() - began
        return {"duration": duration, "log": run_log.text(heartbeat.secrets)}

    session: FlowSession | None = None
    try:
        definition = heartbeat.flows.get(run.handler)
        if definition and definition.timeout and heartbeat.execute_apart:
            return heartbeat.execute_apart(run, definition, run_log)
        with flow_transaction(heartbeat.engine) as session:
            result = _call(heartbeat, run, session, run_log)
            now = heartbeat.clock.now()
            with _connection_of(session, heartbeat.engine) as connection:
                finish(connection, run, RunStatus.SUCCESS, now, result=result, **measured())
    except ClaimLostError as error:
        log.warning("%s: %s", run.flow_name, error)
        return RunStatus.FAILED
    except BaseException as error:  # noqa: BLE001 - a flow may raise anything; its run is recorded
        told = describe_error(_cause(session, error), heartbeat.secrets())
        log.warning("%s failed: %s: %s", run.flow_name, told["error_type"], told["error_message"])
        return _record_failure(heartbeat, run, told | measured())
    # No line of its own in production: the history has it.
    log.debug("%s succeeded: run %d", run.flow_name, run.id)
    return RunStatus.SUCCESS


def _connection_of(session: FlowSession, engine: Engine) -> AbstractContextManager[Connection]:
    """Return what a run's success is written to: the flow's transaction, if it has begun one."""
    if session.manager:
        return nullcontext(session.connection())
    # Nothing of the flow's is to be committed along; a single statement is a transaction by itself.
    if is_postgresql(engine):
        return engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    return engine.begin()


def finish(
    connection: Connection,
    run: ClaimedRun | DataFlowRun,
    status: RunStatus,
    now: datetime,
    *,
    lease: datetime | None = None,
    **values: object,
) -> None:
    """Write a run's end and its flow's `last_run_*`, in the transaction of `connection`.

    The flow's row is locked first, as everywhere. Raises ClaimLostError, and the caller rolls back,
    when the run is no longer in progress under this claim, or if its lease is no longer `lease`.
    """
    # The wall clock may have stepped back meanwhile; the database checks the order.
    ended_at = max(now, run.started_at or now)
    flow: dict[str, object] = {"updated_at": ended_at, "last_run_at": ended_at}
    flow["last_run_status"] = status.value
    if status == RunStatus.SUCCESS:
        flow["last_success_at"] = ended_at
        if run.trigger != Trigger.BACKFILL:
            flow["window_starts_at"] = run.window_end
            flow |= {"last_success_started_at": run.started_at, "failures_in_a_row": 0}
    counted = status == RunStatus.FAILED and run.trigger != Trigger.BACKFILL
    values |= {"updated_at": ended_at, "ended_at": ended_at, "status": status.value}
    statements = _end((*flow,), (*values,), counted=counted, chained=is_postgresql(connection))
    written = {f"flow_{column}": value for column, value in flow.items()}
    written |= {f"run_{column}": value for column, value in values.items()}
    written |= {"flow": run.data_flow_id, "run": run.id, "claim": run.claim_id, "lease": lease}
    for statement in statements:
        ended = connection.execute(statement, written).rowcount
    if ended != 1:
        raise ClaimLostError(run.id)


@cache
def _end(
    flow_columns: tuple[str, ...], run_columns: tuple[str, ...], *, counted: bool, chained: bool
) -> tuple[Update, ...]:
    """Build what writes these columns at a run's end: once, not for each run.

    counted: as a failure of the flow. chained: in one statement, which saves a way to the server.
    The last statement changes a row only if the run was still ours.
    """
    flow = update(_FLOW).values({column: bindparam(f"flow_{column}") for column in flow_columns})
    if counted:
        flow = flow.values(failures_in_a_row=_FLOW.c.failures_in_a_row + 1)
    run = update(_RUN).where(
        _RUN.c.id == bindparam("run"),
        _RUN.c.status == RunStatus.IN_PROGRESS.value,
        # True for two NULLs, too: a run that was put into progress by hand has no claim.
        _RUN.c.claim_id.is_not_distinct_from(bindparam("claim")),
        or_(_LEASE.is_(None), _RUN.c.lease_expires_at == _LEASE),
    )
    run = run.values({column: bindparam(f"run_{column}") for column in run_columns})
    this = _FLOW.c.id == bindparam("flow")
    if not chained:
        return flow.where(this), run
    # The flow's row is locked first and changed last: both rows are written, or none.
    locked = select(_FLOW.c.id).where(this).with_for_update().cte("locked")
    run = run.where(_RUN.c.data_flow_id == locked.c.id).returning(_RUN.c.data_flow_id)
    return (flow.where(_FLOW.c.id == run.cte("ended").c.data_flow_id),)


def _call(heartbeat: Heartbeat, run: ClaimedRun, session: FlowSession, run_log: RunLog) -> object:
    definition = heartbeat.flows.get(run.handler)
    if definition is None:
        raise HandlerNotRegisteredError(run.flow_name, run.handler)
    result = definition.function(
        Run(
            id=run.id,
            flow_name=run.flow_name,
            session=session,
            configuration=configuration_of(definition, run.flow_name, run.configuration),
            window=Window(run.window_start, run.window_end),
            scheduled_for=run.scheduled_for,
            attempt=run.attempt,
            log=run_log.logger,
        )
    )
    try:
        json.dumps(result, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        message = (
            f"the flow returned a {type(result).__name__} that is not JSON ({error}): return "
            "None, or a dict or list of text, numbers and truth values"
        )
        raise ResultError(message) from error
    session.flush()
    # Within a savepoint that the flow has left open, an error is not undone either.
    if broken := session.forbidden_by or session.failed_in_savepoint:
        raise broken
    return result


def configuration_of(definition: FlowDefinition, name: str, text: str | None) -> Any:
    """Return `run.configuration` of the flow called `name`, whose row holds `text`.

    Raises ConfigurationError for what is no JSON object, or does not fit the declared model.
    """
    mend = f"in the row of flow {name!r} must be a JSON object, such as {{}}: mend it"
    try:
        stored = json.loads("{}" if text is None else text)
    except ValueError as error:
        message = f"the configuration {mend} ({error})"
        raise ConfigurationError(message) from error
    if stored is not None and not isinstance(stored, dict):
        message = f"the configuration {mend} (it is a {type(stored).__name__})"
        raise ConfigurationError(message)
    return definition.configured(stored or {})


def _cause(session: FlowSession | None, error: BaseException) -> BaseException:
    """Return what to record: the first database error, where `error` is only its consequence.

    Databases differ in what they say afterwards, and whether they say anything.
    """
    first = (session.forbidden_by or session.failed_in_savepoint) if session else None
    if first is None or not isinstance(error, SQLAlchemyError):
        return error
    if isinstance(first, SQLAlchemyError):
        first.add_note(
            "The flow's transaction ended with this error. To survive one, put the statement "
            "into `with run.session.begin_nested():` and catch the error outside of it."
        )
    return first


def _record_failure(heartbeat: Heartbeat, run: ClaimedRun, values: dict[str, Any]) -> RunStatus:
    def work(session: Session) -> None:
        now = heartbeat.clock.now()
        finish(session.connection(), run, RunStatus.FAILED, now, **values)
        follow_failure(session, heartbeat.flows.get(run.handler), run, now)

    try:
        heartbeat.transact(work)
    except ClaimLostError:
        # Recorded already: by who reaped it, or by our own commit whose answer was lost.
        return _recorded(heartbeat, run)
    except Exception:
        log.exception(
            "the failure of run %d could not be recorded: it is reaped when its lease ends", run.id
        )
    return RunStatus.FAILED


def _recorded(heartbeat: Heartbeat, run: ClaimedRun) -> RunStatus:
    with heartbeat.session() as session:
        status = session.scalars(
            select(DataFlowRun.status).where(
                DataFlowRun.id == run.id, DataFlowRun.claim_id == run.claim_id
            )
        ).one_or_none()
    return RunStatus.SUCCESS if status == RunStatus.SUCCESS else RunStatus.FAILED
