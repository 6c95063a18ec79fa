"""Reaping: a run becomes failed if its lease has expired without a sign of life of its process."""

import logging
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import literal, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..db import begin_writing, reason
from ..db.types import UTCDateTime
from ..errors import LeaseExpired
from ..models import DataFlowRun
from .finish import end_lost
from .unreadable import disable_apart, problem_of

# The seconds before the second check: enough for a renewal by a process that was only locked out of
# the database.
SECOND_LOOK_AFTER = 1.0
# If the write lock took longer than this, in seconds, a renewal may have been delayed as well.
PATIENCE = 0.5

log = logging.getLogger(__name__)


def expired_runs(session: Session, now: datetime) -> Sequence[DataFlowRun]:
    """Return the runs whose lease had ended by `now`, oldest lease first."""
    expired = DataFlowRun.is_expired(literal(now, UTCDateTime()))
    statement = select(DataFlowRun).where(*expired).order_by(DataFlowRun.lease_expires_at)
    return session.scalars(statement).all()


def reap(heartbeat: Heartbeat, suspects: Sequence[DataFlowRun]) -> int:
    """Wait a second, then fail those suspects whose lease is still the same; return how many.

    The second begins when the database can be written, so that leases can be renewed, too. Each run
    is ended in a transaction of its own, so that a locked one does not delay the others. The next
    beat retries those that could not be ended.
    """
    heartbeat.transact(lambda session: begin_writing(session, heartbeat.waiting_beats))
    heartbeat.clock.sleep(SECOND_LOOK_AFTER)
    return sum(_reap_one(heartbeat, run) for run in suspects)


def _reap_one(heartbeat: Heartbeat, run: DataFlowRun) -> bool:
    """Fail a run; return False if it has a new lease, is locked, or the database fails."""
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
