"""One beat, from its call to its reply: register, reap, then claim and execute until all is done.

The work is done on a thread of its own, so that the reply comes in time whatever the database or a
flow is waiting for.
"""

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..errors import DatabaseBusyError
from ..executors.local import Room
from ..models import RunStatus
from ..redaction import describe_error
from ..run import ClaimedRun
from ..schedules.every import MAX_EARLY
from .claim import claim
from .due import Look, eligibility_filters, look
from .execute import execute_flow
from .lease import ensure_keeper
from .reap import expired_runs, reap
from .register import register
from .release import give_up, release_in_doubt, remember_claims
from .report import BeatReport, Tally
from .set_back import follow_clock
from .successes import Gathering, Success, record_apart, record_success, record_successes
from .upcoming import seconds_to_slot, wait_for_slot

log = logging.getLogger(__name__)

# An empty claim although something is due met rows that another process has locked. It is retried
# this often, each time after this pause in seconds.
CONTENDED_CLAIMS = 3
CONTENDED_PAUSE = 0.05
# A claimed run that has not begun after these seconds is released.
BEGIN_SECONDS = 1.0
# What the reply waits for the beat's last bookkeeping after its time is up, in seconds.
REPLY_GRACE = 0.5


def run_beat(
    heartbeat: Heartbeat, source: str, wait: float | None, *, answer_early: bool = False
) -> BeatReport:
    """Run a beat and return its report: when all is done, or when `wait` seconds have passed.

    What still runs then goes on, and what is still due is left to the next beat. None waits
    without limit. `answer_early` returns after the first claim instead, while the beat goes on.
    Raises what kept the beat from working, such as DatabaseNotReadyError.
    """
    beat = _Beat(heartbeat, source, wait)
    try:
        threading.Thread(target=beat.work, name="heartbeat-beat", daemon=True).start()
    except RuntimeError:  # the system gives no thread: the beat takes the caller's
        beat.work()
    answerable = beat.claimed if answer_early else beat.ended
    answerable.wait(None if wait is None else wait + REPLY_GRACE)
    if beat.error is not None:
        raise beat.error
    return beat.answer or replace(beat.tally.report(), goes_on=True)


class _Beat:
    """A beat in progress. Its own thread and those of its runs update its counts."""

    def __init__(self, heartbeat: Heartbeat, source: str, wait: float | None) -> None:
        self.heartbeat, self.tally = heartbeat, Tally(heartbeat, source)
        self.gathering = Gathering()
        self.deadline = self.tally.began + (threading.TIMEOUT_MAX if wait is None else wait)
        self.error: BaseException | None = None
        self.answer: BeatReport | None = None
        self.found: Look | None = None  # what it saw when it looked last
        # By the id of a flow: how often it has caught up in this beat, and whether it may run.
        self.claims = Counter[int]()
        self.verdicts: dict[int, bool] = {}
        self.claimed, self.ended = threading.Event(), threading.Event()

    def work(self) -> None:
        """Do all of the beat, and leave its answer or its error."""
        try:
            if self.heartbeat.executor.busy.is_set():
                ensure_keeper(self.heartbeat)
            register(self.heartbeat)
            release_in_doubt(self.heartbeat)
            goes_on = True
            while goes_on:
                if self._look():
                    self._record_and_claim()
                goes_on = self._wait_for_slot()
            if self.heartbeat.executor.abandoned:
                self.ended.set()  # the process stops: the reply waits for no database
            if self.answer is None:
                with self.heartbeat.session() as session:
                    self.answer = self.tally.save(session)
            if not self.heartbeat.executor.stopped:
                self._do_chores()
        except DatabaseBusyError:  # enough beats wait already, and will do the work
            self.answer = replace(self.tally.report(), goes_on=True)
        except BaseException as error:  # noqa: BLE001 - raised again where the caller waits
            self.error = error
            if self._seconds_left() <= 0:  # the caller no longer waits
                details = describe_error(error, self.heartbeat.secrets())
                log.error("a beat broke off\n%s", details["error_backtrace"])  # noqa: TRY400 - redacted
        finally:
            self._stop_gathering()
            self.claimed.set()
            self.ended.set()

    def _do_chores(self) -> None:
        """Do what optional modules ask for. The answer stands: no chore changes or delays it."""
        self.claimed.set()
        if self._seconds_left() <= 0:
            self.ended.set()
        self.heartbeat.do_chores()

    def _look(self) -> bool:
        """Reap, and return whether there is anything to do. If not, the beat ends here."""
        filters, left = self._ask(), self.found.due if self.found else 0
        with self.heartbeat.session() as session:
            now = self.heartbeat.clock.now()
            found = self.found = look(session, self.heartbeat.flows, now, *filters)
            suspects = expired_runs(session, now) if found.expired else ()
            if found.is_empty:
                self.answer = self.tally.save(session)
        if found.ahead:
            follow_clock(self.heartbeat)
        if suspects:
            self.tally.count_reaped(reap(self.heartbeat, suspects))
        if found.ahead or suspects:  # which may have made flows due
            self._anything_due()
        self.tally.count_due(max(self.found.due - left, 0))
        return not found.is_empty

    def _record_and_claim(self) -> None:
        """Record what has ended and claim what is next, until nothing is due or time is up."""
        executor, contended, seconds = self.heartbeat.executor, 0, self._seconds_left()
        while True:
            freed, was_due = executor.freed, self.found.due if self.found else 0
            room, runs = self._claim(ahead=seconds > 0)
            freed += room.left  # by this claim, which knows of it
            pause = min(seconds, seconds_to_slot(self.heartbeat, self.found))
            if runs:
                contended = 0
            elif self.tally.in_progress == 0:
                is_over = self.answer or executor.stopped or contended == CONTENDED_CLAIMS
                if is_over or not self._anything_due():
                    return
                if room.free:
                    fewer = self.found and self.found.due < was_due  # claimed, or disabled
                    contended = 0 if fewer else contended + 1
                    pause = min(pause, CONTENDED_PAUSE)
            elif executor.is_behind:
                pause = min(pause, BEGIN_SECONDS)
            executor.wait_until_freed(freed, pause)
            seconds = self._seconds_left()
            self._release(0 if seconds <= 0 or executor.stopped else BEGIN_SECONDS)
            if seconds <= 0 or executor.abandoned:
                self._stop_gathering()
                return

    def _release(self, seconds: float) -> None:
        """Release the runs that have waited for a worker for these seconds."""
        if runs := self.heartbeat.executor.take_back(self._execute, seconds):
            self.tally.count_released(runs)
            give_up(self.heartbeat, runs)

    def _wait_for_slot(self) -> bool:
        """Wait for a slot that comes soon, if all else is done; return whether it has come."""
        slot = self.found and self.found.next_slot
        if slot is None or self.tally.in_progress:
            return False

        def go_on() -> None:
            self.answer = None
            self.claimed.set()  # a beat that is answered early waits in the background

        # Slots that come one after the other must not keep a beat for ever.
        deadline = min(self.deadline, self.tally.began + MAX_EARLY)
        return wait_for_slot(self.heartbeat, slot, deadline, go_on)

    def _seconds_left(self) -> float:
        return self.deadline - self.heartbeat.clock.monotonic()

    def _claim(self, *, ahead: bool) -> tuple[Room, list[ClaimedRun]]:
        """Record and claim in one transaction; start the runs, and return them."""
        self._ask()
        successes = self.gathering.take()
        with self.heartbeat.executor.reserve(ahead=ahead) as room:
            runs = self._write(successes, room.free)
            room.taken = len(runs)
        self.tally.count_claimed(runs)
        if runs:
            self.answer = None
        flows, limit = self.heartbeat.flows, self.heartbeat.settings.catch_up_limit
        for run in runs:
            self.claims[run.data_flow_id] += flows[run.handler].catch_up == "all"
            if self.claims[run.data_flow_id] >= limit:
                self.verdicts[run.data_flow_id] = False
            self.heartbeat.executor.start(self._execute, run)
        self.claimed.set()
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
            if not room or (is_last and not self._look_again(session, len(recorded))):
                return recorded, [], self.tally.row_id
            runs = claim(session, self.heartbeat, room, self.verdicts)
            claimed.extend(runs)
            return (
                recorded,
                runs,
                self.tally.row_id or self.tally.insert(session),
            )

        try:
            with remember_claims(self.heartbeat) as claimed:
                recorded, runs, self.tally.row_id = self.heartbeat.transact(step)
        except Exception as error:
            if not successes:
                raise
            cause = describe_error(error, self.heartbeat.secrets())["error_message"]
            log.warning("%d successes are recorded one by one: %s", len(successes), cause)
            self.answer = None
            self._record_apart(successes)
            return self._write([], room)
        left = [success for success in successes if success.run.claim_id not in recorded]
        self.tally.count_ended(RunStatus.SUCCESS, len(recorded))
        self.heartbeat.executor.end(*recorded)
        if left:
            self._record_apart(left)
        return runs

    def _record_apart(self, successes: Sequence[Success]) -> None:
        def on_end(success: Success, status: RunStatus) -> None:
            self.tally.count_ended(status)
            self.heartbeat.executor.end(success.run.claim_id)
            self.heartbeat.executor.wake()

        record_apart(self.heartbeat, successes, on_end)

    def _stop_gathering(self) -> None:
        """Record the successes that are left. Runs that end from now on record their own."""
        if left := self.gathering.take(last=True):
            self._write(left, room=0)

    def _execute(self, run: ClaimedRun) -> RunStatus | None:
        status: RunStatus | None = RunStatus.FAILED
        try:
            status = self._end_of(run)
        finally:
            if status:
                self.tally.count_ended(status)
        return status

    def _end_of(self, run: ClaimedRun) -> RunStatus | None:
        """Execute a run; return its status, or None if the next transaction records its success."""
        ended = execute_flow(self.heartbeat, run)
        if not isinstance(ended, Success):
            return ended
        return None if self.gathering.add(ended) else record_success(self.heartbeat, ended)

    def _ask(self) -> tuple[ColumnElement[bool], ...]:
        """Check the conditions of newly due flows, which may take long; return the filters."""
        check = self.heartbeat.check_conditions
        if check is not None and any(flow.when for flow in self.heartbeat.flows.values()):
            self._stop_gathering()
            check(self.heartbeat, self.verdicts)
        return eligibility_filters(self.heartbeat, self.verdicts)

    def _anything_due(self) -> bool:
        self._ask()
        with self.heartbeat.session() as session:
            return self._look_again(session)

    def _look_again(self, session: Session, recorded: int = 0) -> bool:
        """Return whether anything is due; save the beat's row if not, and if all runs have ended.

        recorded: how many successes the transaction of `session` has recorded.
        """
        heartbeat, now = self.heartbeat, self.heartbeat.clock.now()
        filters = eligibility_filters(heartbeat, self.verdicts)
        found = self.found = look(session, heartbeat.flows, now, *filters)
        if not found.due and self.tally.in_progress == recorded:
            self.answer = self.tally.save(session, recorded)
        return bool(found.due)
