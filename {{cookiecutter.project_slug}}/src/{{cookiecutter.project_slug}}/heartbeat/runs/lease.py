"""Leases: the runs at work in this process say so, all by one statement, until they end."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import update
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..db import begin_writing
from ..models import DataFlowRun
from .run import ClaimedRun

# How often the keeper looks at the clock, in seconds; also how soon it tries again what it could
# not write. Less than the second between the two looks of reaping.
LOOK_EVERY = 0.5
# A wall clock that moved so many seconds more or less than the monotonic one was set.
LEAP = 1.0

log = logging.getLogger(__name__)


@contextmanager
def kept(heartbeat: Heartbeat, run: ClaimedRun) -> Iterator[None]:
    """Renew the lease of `run`, each time when a third of it has passed, until the block ends."""
    leases = heartbeat.leases
    with leases.changing:
        leases.claims[run.claim_id] = run.id
        if leases.keeper is None:
            leases.keeper = threading.Thread(
                target=_keep, args=(heartbeat,), name="heartbeat-leases", daemon=True
            )
            leases.keeper.start()
    try:
        yield
    finally:
        with leases.changing:
            del leases.claims[run.claim_id]


def renew(heartbeat: Heartbeat, claims: Mapping[str, int]) -> int:
    """Give the runs of these claims, which name their ids, a whole lease; return how many got it.

    In one transaction, whatever their number. A row that somebody holds at this moment is being
    ended: it is passed over, so that this waits for nobody and nobody's order of locks matters.
    """

    def work(session: Session) -> int:
        begin_writing(session)
        now = heartbeat.clock.now()
        claimed = DataFlowRun.id.in_(claims.values()), DataFlowRun.claim_id.in_(claims)
        living = DataFlowRun.in_progress().with_only_columns(DataFlowRun.id).where(*claimed)
        ours = session.scalars(living.with_for_update(skip_locked=True)).all()
        until = now + timedelta(seconds=heartbeat.settings.lease)
        renewal = update(DataFlowRun).where(DataFlowRun.id.in_(ours))
        session.execute(renewal.values(lease_expires_at=until, updated_at=now))
        return len(ours)

    return heartbeat.transact(work)


def _keep(heartbeat: Heartbeat) -> None:
    """Renew in time, at once after a leap of the clock, and again until it is written."""
    leases, clock = heartbeat.leases, heartbeat.clock
    wall, ticks = clock.now(), clock.monotonic()
    while True:
        leases.pause.wait(LOOK_EVERY)
        with leases.changing:
            claims = dict(leases.claims)
            if not claims:
                leases.keeper = None
                return
        passed = clock.monotonic() - ticks
        leapt = abs((clock.now() - wall).total_seconds() - passed) > LEAP
        if leapt or passed >= heartbeat.settings.lease / 3:
            try:
                renew(heartbeat, claims)
                wall, ticks = clock.now(), clock.monotonic()
            except Exception:
                log.exception("%d leases could not be renewed: tried again at once", len(claims))
