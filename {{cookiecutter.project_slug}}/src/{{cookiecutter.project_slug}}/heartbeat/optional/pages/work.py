"""What the start page shows of active runs: the oldest pending one, and the workers."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ...core import Heartbeat
from ...db.stored import readable
from ...db.types import StoredTime
from ...models import DataFlow, DataFlowRun
from ...runs.due import IS_PENDING, query_params

# The busiest workers.
MAX_WORKERS = 6


class PendingRun(NamedTuple):
    """A run that could start, with the seconds for which it has waited."""

    id: int
    flow: str
    seconds: float


class Worker(NamedTuple):
    """A process that executes runs, as its leases show: host and process id are its address."""

    name: str
    runs: int

    @property
    def address(self) -> str:
        """The name without the time at which the process began to work."""
        return ":".join(self.name.split(":")[:2])


def oldest_pending(heartbeat: Heartbeat, session: Session, now: datetime) -> PendingRun | None:
    """Return the run that could start and has waited longest; None without a readable one."""
    since = DataFlowRun.waiting_since()
    # Those that were handed over wait for a worker, and count, too.
    runs = sa.select(DataFlowRun.id, DataFlow.name, since.label("since"))
    runs = runs.join(DataFlowRun.data_flow).where(*IS_PENDING).order_by(since, DataFlowRun.id)
    row = session.execute(runs.limit(1), query_params(now, heartbeat.flows)).one_or_none()
    if row is None or (moment := readable(row.since)) is None:
        return None
    return PendingRun(row.id, str(row.name), max((now - moment).total_seconds(), 0))


def workers(session: Session, now: datetime) -> tuple[Sequence[Worker], int]:
    """Return the busiest workers, and how many there are."""
    runs = sa.func.count().label("runs")
    leased = DataFlowRun.is_leased(sa.literal(now, StoredTime()))
    rows = sa.select(DataFlowRun.worker, runs, sa.func.count().over().label("total"))
    rows = rows.where(*leased, DataFlowRun.worker.is_not(None)).group_by(DataFlowRun.worker)
    found = session.execute(rows.order_by(runs.desc(), DataFlowRun.worker).limit(MAX_WORKERS)).all()
    return [Worker(str(row.worker), row.runs) for row in found], found[0].total if found else 0
