"""One beat, from its call to its reply: register, reap, then claim and execute until all is done.

The work is done on a thread of its own, so that the reply comes in time whatever the database or a
flow is waiting for.
"""

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..errors import DatabaseBusyError
from ..events import BeatEnded, BeatReport, BeatStarted
from ..log_context import log_context
from ..log_lines import log_broken_beat
from ..models import DataFlowRun, RunStatus
from ..run import ClaimedRun
from ..schedules.every import MAX_EARLY
from .due import Look, eligibility_filters, look
from .lease import ensure_keeper
from .local import LocalRuns
from .reap import expired_runs, reap
from .register import register
from .release import release_in_doubt
from .report import Tally
from .set_back import follow_clock
from .upcoming import wait_for_slot

log = logging.getLogger(__name__)

# What the reply waits for the beat's last bookkeeping after its time is up, in seconds.
REPLY_GRACE = 0.5
# The same where runs are handed over. It takes a moment, or two seconds if the broker hangs.
HAND_OVER_GRACE = 5.0


def run_beat(
    heartbeat: Heartbeat, source: str, wait: float | None, *, answer_early: bool = False
) -> BeatReport:
    """Run a beat and return its report: when all is done, or when `wait` seconds have passed.

    What still runs then goes on, and what is still due is left to the next beat. None waits
    without limit. `answer_early` returns after the first claim instead, while the beat goes on.
    Raises what kept the beat from working, such as DatabaseNotReadyError.
    """
    started = BeatStarted(source)
    heartbeat.notify(started)
    beat = Beat(heartbeat, started, wait, answer_early=answer_early)
    grace = REPLY_GRACE if beat.is_local else HAND_OVER_GRACE
    try:
        threading.Thread(target=beat.work, name="heartbeat-beat", daemon=True).start()
    except RuntimeError:  # the system gives no thread: the beat takes the caller's
        beat.work()
    answerable = beat.claimed if beat.answers_early else beat.ended
    answerable.wait(None if wait is None else wait + grace)
    if beat.error is not None:
        raise beat.error
    return beat.answer or replace(beat.tally.report(), goes_on=True)


class Beat:
    """A beat in progress. Its own thread and those of its runs update its counts."""

    def __init__(
        self, heartbeat: Heartbeat, started: BeatStarted, wait: float | None, *, answer_early: bool
    ) -> None:
        self.heartbeat, self.started = heartbeat, started
        self.is_local = heartbeat.settings.executor == "local"
        self.answers_early = answer_early or not (wait or wait is None or self.is_local)
        self.tally = Tally(heartbeat, started.source)
        self.local = LocalRuns(self)
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
        with log_context(beat=self.tally):
            self._work()

    def _work(self) -> None:
        try:
            if self.heartbeat.executor.busy.is_set():
                ensure_keeper(self.heartbeat)
            register(self.heartbeat, self.heartbeat.waiting_beats)
            release_in_doubt(self.heartbeat)
            goes_on = True
            while goes_on:
                if self._look():
                    self._start_runs()
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
            is_answered = self.answers_early and self.claimed.is_set()
            if is_answered or self.seconds_left() <= 0:  # the caller no longer waits
                log_broken_beat(error, self.heartbeat.secrets(), self.heartbeat.repeats)
        finally:
            self.local.stop_gathering()
            report = self.answer or self.tally.report()
            row_id = self.tally.row_id
            self.heartbeat.notify(BeatEnded(self.started, report, row_id, self.error))
            self.claimed.set()
            self.ended.set()

    def _do_chores(self) -> None:
        """Do what optional modules ask for. The answer stands: no chore changes or delays it."""
        self.claimed.set()
        if self.seconds_left() <= 0:
            self.ended.set()
        self.heartbeat.do_chores()

    def _look(self) -> bool:
        """Reap, and return whether there is anything to do. If not, the beat ends here."""
        filters, left = self.ask(), self.found.due if self.found else 0
        with self.heartbeat.session() as session:
            now = self.heartbeat.clock.now()
            found = self.found = look(session, self.heartbeat, now, *filters)
            suspects = expired_runs(session, now) if found.expired else ()
            if found.is_empty:
                self.answer = self.tally.save(session)
        if found.ahead:
            follow_clock(self.heartbeat)
        if suspects:
            self.tally.count_reaped(reap(self.heartbeat, suspects))
        if found.ahead or suspects:  # which may have made flows due
            self.anything_due()
        self.tally.count_due(max(self.found.due - left, 0))
        return not found.is_empty

    def _start_runs(self) -> None:
        if self.heartbeat.hand_over is None:
            self.local.record_and_claim()
        else:
            self.heartbeat.hand_over(self)

    def _wait_for_slot(self) -> bool:
        """Wait for a slot that comes soon, if all else is done; return whether it has come."""
        slot = self.found and self.found.next_slot
        if slot is None or (self.is_local and self.tally.in_progress):
            return False

        def go_on() -> None:
            self.answer = None
            self.claimed.set()  # a beat that is answered early waits in the background
            if self.seconds_left() <= 0:
                self.ended.set()

        # Slots that come one after the other must not keep a beat for ever. Without workers of its
        # own, a beat is answered before.
        deadline = self.tally.began + MAX_EARLY
        if self.is_local:
            deadline = min(self.deadline, deadline)
        return wait_for_slot(self.heartbeat, slot, deadline, go_on)

    def seconds_left(self) -> float:
        """Return how long the reply waits yet."""
        return self.deadline - self.heartbeat.clock.monotonic()

    def count_claimed(self, runs: Sequence[ClaimedRun]) -> None:
        """Count claimed runs, and hold flows that have caught up enough in this beat."""
        self.tally.count_claimed(runs)
        if runs:
            self.answer = None
        flows, limit = self.heartbeat.flows, self.heartbeat.settings.catch_up_limit
        for run in runs:
            self.claims[run.data_flow_id] += flows[run.handler].catch_up == "all"
            if self.claims[run.data_flow_id] >= limit:
                self.verdicts[run.data_flow_id] = False

    def count_ended(self, waiting: set[int]) -> bool:
        """Count the runs of these ids, which workers of Celery execute, that have ended.

        They are removed from `waiting`. Return whether there are any.
        """
        if not waiting:
            return False
        mine = select(DataFlowRun.id, DataFlowRun.status).where(DataFlowRun.id.in_(waiting))
        with self.heartbeat.session() as session:
            statuses = {run.id: run.status for run in session.execute(mine)}
        ended = set[int]()
        for run_id in waiting:
            # A run that was removed with its flow counts as failed.
            status = RunStatus(statuses.get(run_id, RunStatus.FAILED))
            if status in {RunStatus.SUCCESS, RunStatus.FAILED}:
                self.tally.count_ended(status)
                ended.add(run_id)
        waiting -= ended
        return bool(ended)

    def ask(self) -> tuple[ColumnElement[bool], ...]:
        """Check the conditions of newly due flows, which may take long; return the filters."""
        check = self.heartbeat.check_conditions
        if check is not None and any(flow.when for flow in self.heartbeat.flows.values()):
            self.local.stop_gathering()
            check(self.heartbeat, self.verdicts)
        return eligibility_filters(self.heartbeat, self.verdicts)

    def anything_due(self) -> bool:
        """Check conditions and look again; the beat ends if nothing is due and all runs ended."""
        self.ask()
        with self.heartbeat.session() as session:
            return self.look_again(session)

    def look_again(self, session: Session, recorded: int = 0) -> bool:
        """Return whether anything is due; save the beat's row if not, and if all runs have ended.

        recorded: how many successes the transaction of `session` has recorded.
        """
        heartbeat, now = self.heartbeat, self.heartbeat.clock.now()
        filters = eligibility_filters(heartbeat, self.verdicts)
        found = self.found = look(session, heartbeat, now, *filters)
        if not found.due and self.tally.in_progress == recorded:
            self.answer = self.tally.save(session, recorded)
        return bool(found.due)
