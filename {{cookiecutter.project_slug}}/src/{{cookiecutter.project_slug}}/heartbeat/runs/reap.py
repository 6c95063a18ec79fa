"""Reaping: runs whose process gave no sign of life until their lease ended become failed."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..db import begin_writing
from ..errors import ClaimLostError, LeaseExpired
from ..models import DataFlow, DataFlowRun, RunStatus
from ..redaction import describe_error
from .execute import finish

# Long enough for a process that was only locked out of the database to write its renewal.
SECOND_LOOK_AFTER = 1.0


def expired_runs(session: Session, now: datetime) -> Sequence[DataFlowRun]:
    """Return the runs whose lease had ended by `now`, oldest lease first."""
    return session.scalars(
        select(DataFlowRun)
        .where(
            DataFlowRun.status == RunStatus.IN_PROGRESS.value, DataFlowRun.lease_expires_at <= now
        )
        .order_by(DataFlowRun.lease_expires_at)
    ).all()


def reap(heartbeat: Heartbeat, suspects: Sequence[DataFlowRun]) -> int:
    """Wait a second, then fail those suspects whose lease is still the same; return how many.

    Each in a transaction of its own, flow first, so that one that is locked delays no other.
    """
    heartbeat.clock.sleep(SECOND_LOOK_AFTER)
    return sum(_reap_one(heartbeat, run) for run in suspects)


def _reap_one(heartbeat: Heartbeat, run: DataFlowRun) -> bool:
    error = LeaseExpired(
        f"{run.worker} gave no sign of life until its lease ended at {run.lease_expires_at}: its "
        "process was killed, stopped or cut off"
    )
    now = heartbeat.clock.now()
    seconds = max((now - (run.started_at or now)).total_seconds(), 0)
    told = describe_error(error, heartbeat.secrets())
    unrenewed = DataFlowRun.lease_expires_at == run.lease_expires_at
    try:
        with heartbeat.session() as session:
            begin_writing(session)
            flow = session.scalars(
                select(DataFlow.id)
                .where(DataFlow.id == run.data_flow_id)
                .with_for_update(skip_locked=True)
            ).one_or_none()
            # Held by somebody at this moment, or gone: the next beat looks again.
            if flow is None:
                return False
            finish(session, run, RunStatus.FAILED, now, unrenewed, duration=seconds, **told)
    except ClaimLostError:
        return False
    return True
