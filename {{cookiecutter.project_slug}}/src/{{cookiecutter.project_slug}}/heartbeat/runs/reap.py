"""Reaping: runs whose process gave no sign of life until their lease ended become failed.

A process that stops, or loses the child of a run, ends its own in the same way: `end_lost`.
"""

import logging
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import literal, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..db import begin_writing, reason
from ..db.types import UTCDateTime
from ..errors import ClaimLostError, LeaseExpired
from ..models import DataFlow, DataFlowRun, RunStatus
from ..redaction import describe_error
from ..run import ClaimedRun
from .finish import finish
from .record import record
from .retry import follow_failure
from .unreadable import disable_apart, problem_of

# Long enough for a process that was only locked out of the database to write its renewal.
SECOND_LOOK_AFTER = 1.0
# Who waited longer than this, in seconds, to write may not have been the only one.
PATIENCE = 0.5

log = logging.getLogger(__name__)


def expired_runs(session: Session, now: datetime) -> Sequence[DataFlowRun]:
    """Return the runs whose lease had ended by `now`, oldest lease first."""
    expired = DataFlowRun.is_expired(literal(now, UTCDateTime()))
    statement = select(DataFlowRun).where(*expired).order_by(DataFlowRun.lease_expires_at)
    return session.scalars(statement).all()


def reap(heartbeat: Heartbeat, suspects: Sequence[DataFlowRun]) -> int:
    """Wait a second, then fail those suspects whose lease is still the same; return how many.

    The second begins when the database can be written, so that a renewal could be, too. Each run
    is ended in a transaction of its own, so that one that is locked delays no other; what cannot
    be ended now is left to the next beat.
    """
    heartbeat.transact(lambda session: begin_writing(session, heartbeat.waiting_beats))
    heartbeat.clock.sleep(SECOND_LOOK_AFTER)
    return sum(_reap_one(heartbeat, run) for run in suspects)


def _reap_one(heartbeat: Heartbeat, run: DataFlowRun) -> bool:
    """Fail a run, if that is possible now; one that cannot be ended delays no other."""
    if problem_of(run):
        return disable_apart(heartbeat, run.data_flow_id, run.id, end_run=True)
    error = LeaseExpired(
        f"{run.worker} gave no sign of life until its lease ended at {run.lease_expires_at} (the "
        f"last one came at {run.updated_at}): it has died, hangs, or cannot reach the database"
    )
    try:
        return end_lost(heartbeat, run, error, lease=run.lease_expires_at, patience=PATIENCE)
    except DBAPIError as problem:
        log.warning(
            "run %d could not be reaped (%s): a later beat retries", run.id, reason(problem)
        )
        return False


def end_lost(
    heartbeat: Heartbeat,
    run: ClaimedRun | DataFlowRun,
    error: BaseException,
    *,
    lease: datetime | None = None,
    patience: float = math.inf,
    log_text: str | None = None,
) -> bool:
    """Fail a run with `error`; with `on_lost="retry"` its slot is due again, as the next attempt.

    Both in one transaction. Returns False where there is nothing to end: the run has ended, is
    somebody else's, or its lease is no longer `lease`; its row or its flow's is gone, or locked at
    this moment; or it took more than `patience` seconds until the database could be written.
    """
    asked = heartbeat.clock.monotonic()

    def work(session: Session, details: dict[str, Any]) -> bool:
        begin_writing(session)
        handlers = select(DataFlow.handler).where(DataFlow.id == run.data_flow_id)
        handler = session.scalar(handlers.with_for_update(skip_locked=True))
        itself = select(DataFlowRun.id).where(DataFlowRun.id == run.id)
        is_free = session.scalar(itself.with_for_update(skip_locked=True)) is not None
        if handler is None or not is_free or heartbeat.clock.monotonic() - asked > patience:
            return False
        now = heartbeat.clock.now()
        seconds = max((now - (run.started_at or now)).total_seconds(), 0)
        details = {"duration": seconds, **details}
        finish(session.connection(), run, RunStatus.FAILED, now, lease=lease, **details)
        follow_failure(session, heartbeat.flows.get(handler), run, now, lost=True)
        return True

    try:
        return record(
            heartbeat, work, {"log": log_text, **describe_error(error, heartbeat.secrets())}
        )
    except ClaimLostError:
        return False
