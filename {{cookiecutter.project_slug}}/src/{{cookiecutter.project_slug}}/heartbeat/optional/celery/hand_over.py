"""A beat hands what is due to Celery: a run's row in `pending` is the outbox.

The ids are sent after the commit of the claim. A run whose message was lost is sent again by a
later beat, when `redeliver_after` has passed.
"""

import logging
from collections.abc import Callable, Sequence

from sqlalchemy.orm import Session

from ...core import Heartbeat
from ...run import ClaimedRun
from ...runs.beat import Beat
from ...runs.claim import claim
from ...runs.local import CONTENDED_CLAIMS, CONTENDED_PAUSE
from ...runs.release import mark_unsent
from ...runs.request import claim_pending
from ...runs.upcoming import seconds_to_slot

# How often a beat that waits looks whether its runs have ended, in seconds.
POLL_SECONDS = 0.2
# Sends the ids of runs; returns why some may not have been sent, or None.
Send = Callable[[Sequence[ClaimedRun]], str | None]

log = logging.getLogger(__name__)


def hand_over(send: Send, beat: Beat) -> None:
    """Hand over all that is due, and wait for the runs while the beat's reply waits.

    A slot that comes meanwhile is handed over at its time.
    """
    clock, waiting = beat.heartbeat.clock, set[int]()
    while _hand_over_due(send, beat, waiting):
        beat.claimed.set()
        slot = clock.monotonic() + seconds_to_slot(beat.heartbeat, beat.found)
        while not beat.count_ended(waiting) and (to_slot := slot - clock.monotonic()) > 0:
            seconds = beat.seconds_left()
            if not waiting or seconds <= 0 or beat.heartbeat.executor.stopped:
                return
            clock.sleep(min(POLL_SECONDS, seconds, to_slot))


def hand_over_requested(send: Send, heartbeat: Heartbeat, run_ids: Sequence[int]) -> None:
    """Hand over requested runs, one batch at most; beats do so with the rest."""
    batch = run_ids[: heartbeat.settings.batch_size]
    runs = claim_pending(heartbeat, batch, heartbeat.waiting_operators, hand_over=True)
    if runs and (problem := send(runs)):
        _note_unsent(heartbeat, runs, problem)


def _hand_over_due(send: Send, beat: Beat, waiting: set[int]) -> bool:
    """Hand over until nothing is due; return False if the broker does not take it.

    The ids of the runs are added to `waiting`.
    """
    contended, limit = 0, beat.heartbeat.settings.batch_size
    while not beat.heartbeat.executor.stopped:
        runs = _claim(beat, limit)
        beat.count_claimed(runs)
        waiting.update(run.id for run in runs)
        if runs and (problem := send(runs)):
            beat.tally.add_note(_note_unsent(beat.heartbeat, runs, problem))
            return False
        if runs:
            contended = 0
            if len(runs) < limit:
                break
        elif contended == CONTENDED_CLAIMS or not beat.anything_due():
            break
        else:
            contended += 1
            beat.heartbeat.clock.sleep(CONTENDED_PAUSE)
    return True


def _claim(beat: Beat, limit: int) -> list[ClaimedRun]:
    """Claim what is due for the workers, in one transaction."""
    beat.ask()

    def step(session: Session) -> tuple[list[ClaimedRun], int | None]:
        runs = claim(session, beat.heartbeat, limit, beat.verdicts, hand_over=True)
        return runs, beat.tally.row_id or (beat.tally.insert(session) if runs else None)

    runs, beat.tally.row_id = beat.heartbeat.transact(step)
    return runs


def _note_unsent(heartbeat: Heartbeat, runs: Sequence[ClaimedRun], problem: str) -> str:
    """Note that the broker did not take these runs: the next beat sends them. Return the reason."""
    message = f"Celery's broker did not take {len(runs)} runs, which are pending: {problem}"
    log.error(message)
    mark_unsent(heartbeat, runs)
    return message
