"""The end of a run: the only place where a run becomes `success` or `failed`.

Its row and its flow's `last_run_*` are written together, and its flow's row is locked first.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Update,
    bindparam,
    case,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..db import backend_of, begin_writing
from ..db.stored import readable
from ..definition import MAX_INTEGER
from ..errors import Cancelled, ClaimLostError
from ..events import RunEnded, after_commit
from ..models import DataFlow, DataFlowRun, RunStatus, Trigger, table_of
from ..models.data_flow import BACKFILL_HOLD
from ..redaction import describe_error
from ..run import ClaimedRun
from .record import record, write_end
from .retry import follow_failure, pause

# On the tables: the ORM would take half of a short run's time.
_FLOW, _RUN = table_of(DataFlow), table_of(DataFlowRun)
MAX_COUNT = 2**63 - 1
_LEASE = bindparam("lease", type_=_RUN.c.lease_expires_at.type)


def record_failure(
    heartbeat: Heartbeat,
    run: ClaimedRun,
    values: dict[str, Any],
    disabled_reason: str | None = None,
) -> RunStatus:
    """Record the failure of a run, and what follows of it. Return the status that it has then.

    disabled_reason: why to disable the flow, if each of its runs would fail in the same way.
    """

    def step(session: Session, values: dict[str, Any]) -> RunStatus:
        begin_writing(session)
        now, retry_at = heartbeat.clock.now(), None
        finish(session.connection(), run, RunStatus.FAILED, now, **values)
        if disabled_reason:
            disable(session, run.data_flow_id, disabled_reason, now)
        else:
            retry_at = follow_failure(session, heartbeat.flows.get(run.handler), run, now)
        after_commit(session, end_of(run, run, values, now, retry_at))
        return RunStatus.FAILED

    return write_end(heartbeat, run, lambda: record(heartbeat, step, values))


def end_lost(
    heartbeat: Heartbeat,
    run: ClaimedRun | DataFlowRun,
    error: BaseException,
    *,
    lease: datetime | None = None,
    patience: float = math.inf,
    log_text: str | None = None,
    skip_locked: bool = True,
) -> bool:
    """Fail a run whose process has died or stops; `on_lost="retry"` makes its slot due again.

    Return False where there is nothing to end: the run has ended, is somebody else's, or its lease
    is no longer `lease`; its row or its flow's is gone, or locked and not to be waited for; or it
    took more than `patience` seconds until the database could be written.
    """
    asked = heartbeat.clock.monotonic()

    def step(session: Session, values: dict[str, Any]) -> bool:
        begin_writing(session)
        flows = select(DataFlow.handler, DataFlow.name.label("flow_name"))
        flows = flows.where(DataFlow.id == run.data_flow_id)
        flow = session.execute(flows.with_for_update(skip_locked=skip_locked)).one_or_none()
        itself = select(DataFlowRun.id).where(DataFlowRun.id == run.id)
        is_free = session.scalar(itself.with_for_update(skip_locked=skip_locked)) is not None
        if flow is None or not is_free or heartbeat.clock.monotonic() - asked > patience:
            return False
        now = heartbeat.clock.now()
        seconds = max((now - (run.started_at or now)).total_seconds(), 0)
        values = {"duration": seconds, **values}
        finish(session.connection(), run, RunStatus.FAILED, now, lease=lease, **values)
        definition = heartbeat.flows.get(flow.handler)
        retry_at = follow_failure(session, definition, run, now, lost=True)
        after_commit(session, end_of(run, flow, values, now, retry_at))
        return True

    details = describe_error(error, heartbeat.secrets())
    try:
        return record(heartbeat, step, {"log": log_text, **details})
    except ClaimLostError:
        return False


def disable(
    session: Session, flow_id: int, disabled_reason: str, now: datetime, run_id: int | None = None
) -> None:
    """Disable a flow whose row is locked, and cancel its run that is pending, or is `run_id`."""
    pause(session, flow_id, disabled_reason, now)
    ends = or_(DataFlowRun.status == RunStatus.PENDING.value, DataFlowRun.id == run_id)
    active = select(DataFlowRun).where(DataFlowRun.data_flow_id == flow_id, DataFlowRun.active == 1)
    cancelled = session.scalars(active.where(ends)).all()
    cancel(session, cancelled, f"its flow was disabled: {disabled_reason}", now)


def cancel(session: Session, runs: Sequence[DataFlowRun], cause: str, now: datetime) -> None:
    """Fail runs that have not begun. The rows of their flows are locked."""
    if not runs:
        return
    for run in runs:
        run.fail(Cancelled(cause), now)
    session.flush()
    flows = [run.data_flow_id for run in runs]
    values = {"last_run_at": now, "last_run_status": RunStatus.FAILED.value, "updated_at": now}
    values["failure_count"] = one_more(_FLOW.c.failure_count)
    session.connection().execute(update(_FLOW).where(_FLOW.c.id.in_(flows)).values(values))
    columns = select(_FLOW.c.id, _FLOW.c.name.label("flow_name"), _FLOW.c.handler)
    by_id = {flow.id: flow for flow in session.execute(columns.where(_FLOW.c.id.in_(flows)))}
    for run in runs:
        details = {"error_type": run.error_type, "error_message": run.error_message}
        after_commit(session, end_of(run, by_id[run.data_flow_id], details, now))


def end_of(
    run: ClaimedRun | DataFlowRun,
    flow: Any,
    values: Mapping[str, Any],
    now: datetime,
    retry_at: datetime | None = None,
) -> RunEnded:
    """Return the event of a run's end.

    flow: has `flow_name` and `handler`. values: the columns that are written with the run's end.
    """
    error_type = values.get("error_type")
    return RunEnded(
        id=run.id,
        data_flow_id=run.data_flow_id,
        flow_name=flow.flow_name,
        handler=flow.handler,
        # An unreadable row ends, too.
        trigger=str(run.trigger),
        scheduled_for=readable(run.scheduled_for),
        attempt=readable(run.attempt) or 1,
        status=RunStatus.FAILED if error_type else RunStatus.SUCCESS,
        ended_at=now,
        duration=values.get("duration"),
        error_type=error_type,
        error_message=values.get("error_message"),
        retry_at=retry_at,
    )


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

    Raises ClaimLostError, and the caller rolls back, when the run is no longer in progress under
    this claim, or if its lease is no longer `lease`.
    """
    values |= run_values(run, status, now)
    flow = flow_values(run, status, now)
    in_a_row = status == RunStatus.FAILED and run.trigger != Trigger.BACKFILL
    written = {f"flow_{column}": value for column, value in flow.items()}
    written |= {f"run_{column}": value for column, value in values.items()}
    written |= {"flow": run.data_flow_id, "run": run.id, "claim": run.claim_id, "lease": lease}
    written["seconds"] = values.get("duration") or 0.0
    change_flow = _flow_update((*flow,), status, in_a_row=in_a_row, reaped=lease is not None)
    change_run = _run_update((*values,))
    if backend_of(connection).chains_writes:
        ended = connection.execute(_together(change_flow, change_run), written).rowcount
    else:
        connection.execute(change_flow, written)
        ended = connection.execute(change_run, written).rowcount
    if ended != 1:
        raise ClaimLostError(run.id)


def run_values(
    run: ClaimedRun | DataFlowRun, status: RunStatus, now: datetime
) -> dict[str, object]:
    """Return what the end of a run changes of its row."""
    # The wall clock may have been set back meanwhile; the database checks the order.
    ended_at = max(now, run.started_at or now)
    return {"updated_at": ended_at, "ended_at": ended_at, "status": status.value}


def flow_values(
    run: ClaimedRun | DataFlowRun, status: RunStatus, now: datetime
) -> dict[str, object]:
    """Return what the end of a run changes of its flow. A backfill changes no more than it must."""
    values: dict[str, object] = {"updated_at": now, "last_run_at": now}
    values["last_run_status"] = status.value
    if status == RunStatus.SUCCESS:
        values["last_success_at"] = now
    if run.trigger == Trigger.BACKFILL:
        values["backfill_until"] = now + BACKFILL_HOLD  # its next window comes at once
    elif status == RunStatus.FAILED:
        values["alarm_check_at"] = now  # whichever process looks first raises the alarm
    else:
        values["window_starts_at"] = run.window_end
        values["last_success_started_at"] = min(run.started_at or now, now)
        values["failures_in_a_row"] = 0
    return values


# Each statement is built once, not for each run; the parameters of both have names of their own.


@cache
def _flow_update(
    columns: tuple[str, ...], status: RunStatus, *, in_a_row: bool, reaped: bool
) -> Update:
    """Build the statement that changes these columns of a flow, and counts the run's end.

    in_a_row: whether it is counted as one of several failures in a row, too.
    """
    flow = update(_FLOW).where(_FLOW.c.id == bindparam("flow"))
    flow = flow.values({column: bindparam(f"flow_{column}") for column in columns})
    flow = flow.values(counts_after(status))
    if reaped:
        flow = flow.values(reaped_count=one_more(_FLOW.c.reaped_count))
    if not in_a_row:
        return flow
    failures = _FLOW.c.failures_in_a_row
    # At most what the column can hold, and a number whatever it holds now.
    return flow.values(
        failures_in_a_row=case((failures < MAX_INTEGER, failures + 1), else_=MAX_INTEGER)
    )


def counts_after(status: RunStatus) -> dict[str, ColumnElement[Any]]:
    """Return the counts of a flow's row after another run, which took the parameter `seconds`."""
    count, seconds = (
        (_FLOW.c.success_count, _FLOW.c.success_seconds)
        if status == RunStatus.SUCCESS
        else (_FLOW.c.failure_count, _FLOW.c.failure_seconds)
    )
    more = seconds + bindparam("seconds", type_=Double())
    return {count.name: one_more(count), seconds.name: more}


def one_more(count: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a count after another run. It restarts at 0 from what was written by hand.

    That is a value on SQLite that is not a number, or the largest one that the column can hold.
    """
    return case((count < MAX_COUNT, count + 1), else_=0)


@cache
def _run_update(columns: tuple[str, ...]) -> Update:
    """Build the statement that changes these columns of a run if it is still ours."""
    run = update(_RUN).where(
        _RUN.c.id == bindparam("run"),
        _RUN.c.status == RunStatus.IN_PROGRESS.value,
        # True for two NULLs, too: a run that was put into progress by hand has no claim.
        _RUN.c.claim_id.is_not_distinct_from(bindparam("claim")),
        or_(_LEASE.is_(None), _RUN.c.lease_expires_at == _LEASE),
    )
    return run.values({column: bindparam(f"run_{column}") for column in columns})


@cache
def _together(flow: Update, run: Update) -> Update:
    """Build one statement of both, which saves a round trip: it changes both rows, or none."""
    # The flow's row is locked first and changed last.
    locked = select(_FLOW.c.id).where(_FLOW.c.id == bindparam("flow")).with_for_update()
    flow_id = locked.cte("locked").c.id
    ended = run.where(_RUN.c.data_flow_id == flow_id).returning(_RUN.c.data_flow_id).cte("ended")
    return flow.where(_FLOW.c.id == ended.c.data_flow_id)
