"""Runs that their process did not end: failed, and due again where their flow says so."""

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..db import begin_writing
from ..errors import ClaimLostError
from ..models import DataFlow, DataFlowRun, RunStatus
from ..redaction import describe_error
from .execute import finish
from .retry import follow_failure
from .run import ClaimedRun


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
        follow_failure(session, heartbeat.flows.get(handler), run, now, lost=True)
        return True

    try:
        return heartbeat.transact(work)
    except ClaimLostError:
        return False
