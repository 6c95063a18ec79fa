"""The runs of a beat that this process executes: claimed for its free workers, and recorded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from ..executors.local import Room
from ..log_context import log_context
from ..models import RunStatus
from ..redaction import describe_error, short_error
from ..run import ClaimedRun
from .claim import claim
from .execute import execute_flow
from .release import give_up, remember_claims
from .successes import Gathering, Success, record_apart, record_success, record_successes
from .upcoming import seconds_to_slot

if TYPE_CHECKING:
    from .beat import Beat

log = logging.getLogger(__name__)

# An empty claim although something is due met rows that another process has locked. It is retried
# this often, each time after this pause in seconds.
CONTENDED_CLAIMS = 3
CONTENDED_PAUSE = 0.05
# A claimed run that has not begun after these seconds is released.
BEGIN_SECONDS = 1.0


class LocalRuns:
    """Claims what is due for the workers of this process, and records what they have done."""

    def __init__(self, beat: Beat) -> None:
        self.beat, self.heartbeat, self.tally = beat, beat.heartbeat, beat.tally
        self.gathering = Gathering()

    def record_and_claim(self) -> None:
        """Record what has ended and claim what is next, until nothing is due or time is up."""
        executor, contended, seconds = self.heartbeat.executor, 0, self.beat.seconds_left()
        while True:
            freed, was_due = executor.freed, self.beat.found.due if self.beat.found else 0
            room, runs = self._claim(ahead=seconds > 0)
            freed += room.left  # by this claim, which knows of it
            pause = min(seconds, seconds_to_slot(self.heartbeat, self.beat.found))
            if runs:
                contended = 0
            elif self.tally.in_progress == 0:
                is_over = self.beat.answer or executor.stopped or contended == CONTENDED_CLAIMS
                if is_over or not self.beat.anything_due():
                    return
                if room.free:
                    # Where fewer are due than before, others were claimed or disabled.
                    fewer = self.beat.found and self.beat.found.due < was_due
                    contended = 0 if fewer else contended + 1
                    pause = min(pause, CONTENDED_PAUSE)
            elif executor.is_behind:
                pause = min(pause, BEGIN_SECONDS)
            executor.wait_until_freed(freed, pause)
            seconds = self.beat.seconds_left()
            self._release(0 if seconds <= 0 or executor.stopped else BEGIN_SECONDS)
            if seconds <= 0 or executor.abandoned:
                self.stop_gathering()
                return

    def _release(self, seconds: float) -> None:
        """Release the runs that have waited for a worker for these seconds."""
        if runs := self.heartbeat.executor.take_back(self._execute, seconds):
            self.tally.count_released(runs)
            give_up(self.heartbeat, runs)

    def _claim(self, *, ahead: bool) -> tuple[Room, list[ClaimedRun]]:
        """Record and claim in one transaction; start the runs, and return them."""
        self.beat.ask()
        successes = self.gathering.take()
        with self.heartbeat.executor.reserve(ahead=ahead) as room:
            runs = self._write(successes, room.free)
            room.taken = len(runs)
        self.beat.count_claimed(runs)
        for run in runs:
            self.heartbeat.executor.start(self._execute, run)
        self.beat.claimed.set()
        return room, runs

    def _write(self, successes: Sequence[Success], room: int) -> list[ClaimedRun]:
        """Record successes and claim runs for the `room` there is, in one transaction.

        A success that it does not record is recorded alone, on another thread.
        """
        if not successes and not room:
            return []

        def step(session: Session) -> tuple[set[str], list[ClaimedRun], int | None]:
            recorded = record_successes(session, successes) if successes else set[str]()
            # With its last run the beat looks first whether there is anything to claim.
            is_last = room and recorded and self.tally.in_progress == len(recorded)
            if not room or (is_last and not self.beat.look_again(session, len(recorded))):
                return recorded, [], self.tally.row_id
            runs = claim(session, self.heartbeat, room, self.beat.verdicts)
            claimed.extend(runs)
            return recorded, runs, self.tally.row_id or self.tally.insert(session)

        try:
            with remember_claims(self.heartbeat) as claimed:
                recorded, runs, self.tally.row_id = self.heartbeat.transact(step)
        except Exception as error:
            if not successes:
                raise
            cause = short_error(describe_error(error, self.heartbeat.secrets())["error_message"])
            log.warning("%d successes are recorded one by one: %s", len(successes), cause)
            self.beat.answer = None
            record_apart(self.heartbeat, successes, self.tally.count_ended)
            return self._write([], room)
        left = [success for success in successes if success.run.claim_id not in recorded]
        self.tally.count_ended(RunStatus.SUCCESS, len(recorded))
        self.heartbeat.executor.end(*recorded)
        if left:
            record_apart(self.heartbeat, left, self.tally.count_ended)
        return runs

    def stop_gathering(self) -> None:
        """Record the successes that are left. Runs that end from now on record their own."""
        if left := self.gathering.take(last=True):
            self._write(left, room=0)

    def _execute(self, run: ClaimedRun) -> RunStatus | None:
        """Execute a run; return its status, or None if the next transaction records its success."""
        status: RunStatus | None = RunStatus.FAILED
        try:
            with log_context(beat=self.tally):
                ended = execute_flow(self.heartbeat, run)
                if not isinstance(ended, Success):
                    status = ended
                else:
                    gathered = self.gathering.add(ended)
                    status = None if gathered else record_success(self.heartbeat, ended)
        finally:
            if status:
                self.tally.count_ended(status)
        return status
