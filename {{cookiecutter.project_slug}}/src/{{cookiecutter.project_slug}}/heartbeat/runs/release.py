"""Releasing: a run that this process has claimed but nobody executes returns to `pending`.

A claim whose commit was never answered may have been applied. Its runs are looked for until their
lease would have ended, and any process can claim them again.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, contains_eager

from ..core import Heartbeat
from ..db import begin_writing
from ..models import DataFlow, DataFlowRun, RunStatus, Trigger
from ..run import ClaimedRun
from .finish import cancel
from .lease import ensure_keeper

log = logging.getLogger(__name__)


@contextmanager
def remember_claims(heartbeat: Heartbeat) -> Iterator[list[ClaimedRun]]:
    """Yield a list for the runs that the block claims; if it fails, they are looked up later.

    Their leases are renewed from the moment at which they are at work.
    """
    claimed: list[ClaimedRun] = []
    try:
        yield claimed
        if claimed:
            ensure_keeper(heartbeat)
    except DBAPIError:
        until = heartbeat.clock.monotonic() + heartbeat.settings.lease
        heartbeat.leases.in_doubt.update({run.claim_id: until for run in claimed})
        raise


def give_up(heartbeat: Heartbeat, runs: Sequence[ClaimedRun]) -> None:
    """Release claimed runs that no thread of this process will execute."""
    until = heartbeat.clock.monotonic() + heartbeat.settings.lease
    heartbeat.leases.in_doubt.update({run.claim_id: until for run in runs})
    heartbeat.executor.end(*(run.claim_id for run in runs))
    release_in_doubt(heartbeat)


def release_in_doubt(heartbeat: Heartbeat) -> None:
    """Release the runs whose claims are in doubt, if they turn out to have been committed."""
    doubts, now = heartbeat.leases.in_doubt, heartbeat.clock.monotonic()
    for claim in [claim for claim, until in list(doubts.items()) if until < now]:
        doubts.pop(claim, None)
    if doubts:
        claims = [*doubts]
        for claim in heartbeat.transact(lambda session: release(session, heartbeat, claims)):
            doubts.pop(claim, None)


def release(session: Session, heartbeat: Heartbeat, claims: Iterable[str]) -> list[str]:
    """Release the runs in progress under these claims; return the claims. The caller commits.

    A run whose flow was disabled meanwhile ends, as a pending one does.
    """
    begin_writing(session, heartbeat.waiting_beats)
    ours = DataFlowRun.in_progress().where(DataFlowRun.claim_id.in_([*claims]))
    flows = select(DataFlow.id).where(
        DataFlow.id.in_(ours.with_only_columns(DataFlowRun.data_flow_id).order_by(None))
    )
    locked = session.scalars(flows.order_by(DataFlow.id).with_for_update(skip_locked=True)).all()
    runs = ours.where(DataFlowRun.data_flow_id.in_(locked)).join(DataFlowRun.data_flow)
    released, now = list[str](), heartbeat.clock.now()
    runs = runs.options(contains_eager(DataFlowRun.data_flow))
    for run in session.scalars(runs.with_for_update(skip_locked=True, of=DataFlowRun)):
        released.append(run.claim_id or "")
        asked_for = run.trigger in {Trigger.MANUAL.value, Trigger.BACKFILL.value}
        if run.data_flow.enabled or asked_for:
            log.info("run %d of %s has not begun: released", run.id, run.data_flow.name)
            run.release()
        else:
            cancel(session, [run], "its flow was disabled before it began", now)
    return released


def mark_unsent(heartbeat: Heartbeat, runs: Sequence[ClaimedRun]) -> None:
    """Note that pending runs were not handed over after all, so that the next beat does it."""
    mine = DataFlowRun.id.in_([run.id for run in runs])
    pending = update(DataFlowRun).where(mine, DataFlowRun.status == RunStatus.PENDING.value)

    def work(session: Session) -> None:
        begin_writing(session)
        session.execute(pending.values(sent_at=None))

    heartbeat.transact(work)
