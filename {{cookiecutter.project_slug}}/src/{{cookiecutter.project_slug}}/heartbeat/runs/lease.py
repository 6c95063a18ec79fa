"""Leases: one statement renews those of all runs at work in this process."""

import logging
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from weakref import ref

from sqlalchemy import update
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..db import Limits, answer_within, begin_writing, limit_transaction
from ..models import DataFlowRun
from ..redaction import error_text, short_error
from ..run import ClaimedRun

# How often the keeper looks at the clock, in seconds; also how soon it retries what it could not
# write. Less than the second between the two looks of reaping.
LOOK_EVERY = 0.5
# The wall clock was set if it moved by more than these seconds away from the monotonic one.
LEAP = 1.0
# The limit for a renewal: this share of a lease, but at least these seconds. The rest of the lease
# is enough for another one on a new connection.
RENEWAL_SHARE, RENEWAL_SECONDS = 1 / 6, 0.5

log = logging.getLogger(__name__)


def ensure_keeper(heartbeat: Heartbeat) -> None:
    """Start the thread that renews leases, unless it lives. Where that fails, call this again.

    It renews the leases of all runs at work, each time when a third of a lease has passed.
    """
    leases = heartbeat.leases
    with leases.changing:
        if leases.keeper is not None and leases.keeper.is_alive():
            return
        # It knows the heartbeat weakly: one that is dropped, as tests do, is not kept alive.
        busy = heartbeat.executor.busy
        known = ref(heartbeat, lambda _: busy.set())
        keeper = threading.Thread(
            target=_keep, args=(known, busy), name="heartbeat-leases", daemon=True
        )
        try:
            keeper.start()
        except RuntimeError as error:
            log.error("leases cannot be renewed yet: %s", error)  # noqa: TRY400 - it says all
        else:
            leases.keeper = keeper


def renew(heartbeat: Heartbeat, runs: Sequence[ClaimedRun]) -> int:
    """Renew the leases of these runs, as far as they are still this process's.

    In one transaction, whatever their number. Locked rows are skipped, so that the order of locks
    does not matter. Return how many were skipped.
    """
    # A renewal whose network goes silent must hold its rows no longer than the next one waits.
    seconds = max(heartbeat.settings.lease * RENEWAL_SHARE, RENEWAL_SECONDS)
    limits = Limits(lock=seconds, answer=seconds + 1, idle=seconds)
    claimed = (
        DataFlowRun.id.in_([run.id for run in runs]),
        DataFlowRun.claim_id.in_([run.claim_id for run in runs]),
    )
    living = DataFlowRun.in_progress().with_only_columns(DataFlowRun.id).where(*claimed)

    def work(session: Session) -> int:
        begin_writing(session)
        limit_transaction(session.connection(), limits)
        now = heartbeat.clock.now()
        ours = session.scalars(living.with_for_update(skip_locked=True)).all()
        until = now + timedelta(seconds=heartbeat.settings.lease)
        renewal = update(DataFlowRun).where(DataFlowRun.id.in_(ours))
        session.execute(renewal.values(lease_expires_at=until, updated_at=now))
        return 0 if len(ours) == len(runs) else len(session.scalars(living).all()) - len(ours)

    with answer_within(seconds):
        return heartbeat.transact(work)


def _keep(known: ref[Heartbeat], busy: threading.Event) -> None:
    """Keep the leases of runs at work. This ends with the process: a thread may be hard to get."""
    while True:
        busy.wait()
        heartbeat = known()
        if heartbeat is None:
            return
        _keep_while_at_work(heartbeat)
        del heartbeat


def _keep_while_at_work(heartbeat: Heartbeat) -> None:
    """Renew in time, at once after a leap of the clock, and again until it is written."""
    clock = heartbeat.clock
    wall, ticks = clock.now(), clock.monotonic()
    while runs := heartbeat.executor.runs_at_work():
        passed = clock.monotonic() - ticks
        leapt = abs((clock.now() - wall).total_seconds() - passed) > LEAP
        if leapt or passed >= heartbeat.settings.lease / 3:
            try:
                if not renew(heartbeat, runs):
                    wall, ticks = clock.now(), clock.monotonic()
            except Exception as error:  # noqa: BLE001 - whatever it is, renewal goes on
                message = "%d leases could not be renewed: retrying: %s"
                cause = short_error(error_text(error, heartbeat.secrets()))
                heartbeat.repeats.log(log, logging.ERROR, message, len(runs), cause, key="lease")
        time.sleep(LOOK_EVERY)
