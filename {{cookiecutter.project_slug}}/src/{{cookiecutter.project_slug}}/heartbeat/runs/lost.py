"""Runs that their process did not end: failed, and due again where their flow says so."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..db import begin_writing
from ..errors import ClaimLostError
from ..models import DataFlow, DataFlowRun, RunStatus, Trigger
from ..redaction import describe_error
from ..registry import FlowDefinition
from .execute import finish
from .run import ClaimedRun

# A run that takes its process with it each time is given up after so many attempts.
MOST_ATTEMPTS = 10


def end_lost(
    heartbeat: Heartbeat,
    run: ClaimedRun | DataFlowRun,
    error: BaseException,
    *guards: ColumnElement[bool],
    patience: float | None = None,
    log: str | None = None,
) -> bool:
    """Fail a run with `error`; with `on_lost="retry"` its slot is due again, as the next attempt.

    Both in one transaction. Returns False where there is nothing to end: the run has ended, is
    somebody else's or does not fulfil the `guards`; its flow's row is gone, or locked at this
    moment; or it took more than `patience` seconds until the database could be written.
    """
    asked = heartbeat.clock.monotonic()

    def work(session: Session) -> bool:
        begin_writing(session)
        handler = session.scalars(
            select(DataFlow.handler)
            .where(DataFlow.id == run.data_flow_id)
            .with_for_update(skip_locked=True)
        ).one_or_none()
        late = patience is not None and heartbeat.clock.monotonic() - asked > patience
        if handler is None or late:
            return False
        now = heartbeat.clock.now()
        seconds = max((now - (run.started_at or now)).total_seconds(), 0)
        told = describe_error(error, heartbeat.secrets())
        values = {"duration": seconds, "log": log, **told}
        finish(session, run, RunStatus.FAILED, now, *guards, **values)
        if _is_due_again(heartbeat.flows, handler, run):
            session.add(_next_attempt(run, now))
        return True

    try:
        return heartbeat.transact(work)
    except ClaimLostError:
        return False


def _is_due_again(
    flows: Mapping[str, FlowDefinition], handler: str, run: ClaimedRun | DataFlowRun
) -> bool:
    definition = flows.get(handler)
    return (
        definition is not None
        and definition.on_lost == "retry"
        and run.scheduled_for is not None
        and run.attempt < MOST_ATTEMPTS
    )


def _next_attempt(run: ClaimedRun | DataFlowRun, now: datetime) -> DataFlowRun:
    return DataFlowRun(
        data_flow_id=run.data_flow_id,
        trigger=Trigger.RETRY.value,
        scheduled_for=run.scheduled_for,
        attempt=run.attempt + 1,
        missed_slots=run.missed_slots,
        window_start=run.window_start,
        window_end=run.window_end,
        created_at=now,
        updated_at=now,
    )
