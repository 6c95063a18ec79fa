"""The end of a run: its row and its flow's `last_run_*`, written together behind a guard."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, Engine, Update, bindparam, case, or_, select, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..db import begin_writing, reason
from ..definition import MAX_INTEGER
from ..errors import ClaimLostError
from ..models import DataFlow, DataFlowRun, RunStatus, Trigger, table_of
from ..models.data_flow import BACKFILL_HOLD
from ..models.meta import is_postgresql
from ..run import ClaimedRun
from .record import record
from .retry import follow_failure
from .unreadable import disable

# How long a record that could not be written waits for the next try, in seconds; it doubles.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0

log = logging.getLogger(__name__)

# On the tables, since the ORM's way takes half of a short run's time.
_FLOW, _RUN = table_of(DataFlow), table_of(DataFlowRun)
_LEASE = bindparam("lease", type_=_RUN.c.lease_expires_at.type)


def record_success(heartbeat: Heartbeat, run: ClaimedRun, values: dict[str, Any]) -> RunStatus:
    """Record the success of a run that has written nothing through its session.

    Return the status that the run has then.
    """

    def write() -> RunStatus:
        with _transaction(heartbeat.engine) as connection:
            finish(connection, run, RunStatus.SUCCESS, heartbeat.clock.now(), **values)
        return RunStatus.SUCCESS

    return _record(heartbeat, run, write)


def record_failure(
    heartbeat: Heartbeat, run: ClaimedRun, values: dict[str, Any], disable_for: str | None = None
) -> RunStatus:
    """Record the failure of a run, and what follows of it. Return the status that it has then.

    disable_for: the reason to disable the flow, which every other run would fail for, too.
    """

    def work(session: Session, values: dict[str, Any]) -> RunStatus:
        begin_writing(session)
        now = heartbeat.clock.now()
        finish(session.connection(), run, RunStatus.FAILED, now, **values)
        if disable_for:
            disable(session, now, run.data_flow_id, disable_for)
        else:
            follow_failure(session, heartbeat.flows.get(run.handler), run, now)
        return RunStatus.FAILED

    return _record(heartbeat, run, lambda: record(heartbeat, work, values))


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
    # The wall clock may have been set back meanwhile; the database checks the order.
    started_at = run.started_at or now
    ended_at = max(now, started_at)
    flow: dict[str, object] = {"updated_at": now, "last_run_at": now}
    flow["last_run_status"] = status.value
    if status == RunStatus.SUCCESS:
        flow["last_success_at"] = now
        if run.trigger != Trigger.BACKFILL:
            flow["window_starts_at"] = run.window_end
            started = min(started_at, now)
            flow |= {"last_success_started_at": started, "failures_in_a_row": 0}
    if run.trigger == Trigger.BACKFILL:  # its next window comes at once
        flow["backfill_until"] = now + BACKFILL_HOLD
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
        failures = _FLOW.c.failures_in_a_row
        # Not beyond what the column holds, and a number whatever it holds.
        counted_on = case((failures < MAX_INTEGER, failures + 1), else_=MAX_INTEGER)
        flow = flow.values(failures_in_a_row=counted_on)
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


def _record(heartbeat: Heartbeat, run: ClaimedRun, write: Callable[[], RunStatus]) -> RunStatus:
    """Write a run's end; retry while it cannot be written, until its lease would have ended.

    Return the status that the run has then.
    """
    clock, pause = heartbeat.clock, FIRST_PAUSE
    until = clock.monotonic() + heartbeat.settings.lease
    while True:
        try:
            try:
                return write()
            except ClaimLostError as error:
                log.warning("%s: %s", run.flow_name, error)
                # By a process that reaped it, or by a commit of ours whose answer was lost.
                return _recorded(heartbeat, run)
        except SQLAlchemyError as error:
            cause = reason(error) if isinstance(error, DBAPIError) else str(error)
            if clock.monotonic() > until or heartbeat.executor.abandoned:
                log.error(  # noqa: TRY400 - the cause says it all
                    "the end of run %d could not be recorded (%s): it is reaped when its lease "
                    "ends",
                    run.id,
                    cause,
                )
                return RunStatus.FAILED
            log.warning(
                "the end of run %d could not be recorded (%s): retrying in %g s",
                run.id,
                cause,
                pause,
            )
        clock.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _transaction(engine: Engine) -> AbstractContextManager[Connection]:
    """Begin a transaction; on PostgreSQL the one statement is one by itself."""
    if is_postgresql(engine):
        return engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    return engine.begin()


def _recorded(heartbeat: Heartbeat, run: ClaimedRun) -> RunStatus:
    with heartbeat.session() as session:
        status = session.scalars(
            select(DataFlowRun.status).where(
                DataFlowRun.id == run.id, DataFlowRun.claim_id == run.claim_id
            )
        ).one_or_none()
    return RunStatus.SUCCESS if status == RunStatus.SUCCESS else RunStatus.FAILED
