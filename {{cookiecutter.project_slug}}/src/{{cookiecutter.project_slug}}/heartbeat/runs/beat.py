"""One beat, from its call to its reply: register, reap, then claim and execute until all is done.

The work is done on a thread of its own, so that the reply comes in time whatever the database or a
flow is waiting for.
"""

import logging
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, bindparam, insert, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..models import DataFlowBeat, RunStatus, table_of
from ..redaction import describe_error
from .claim import anchor_anew, claim
from .due import free_of, look
from .execute import execute
from .reap import expired_runs, reap
from .register import register
from .run import ClaimedRun

log = logging.getLogger(__name__)

# On the table: see `execute.py`.
_BEAT = table_of(DataFlowBeat)
_CHANGE_BEAT = update(_BEAT).where(_BEAT.c.id == bindparam("beat"))
# A claim that comes back empty although something is due met rows that another process holds at
# that moment. It is tried so often again, each time after so many seconds.
CONTENDED_CLAIMS = 3
CONTENDED_PAUSE = 0.05
# What the reply waits for the beat's last bookkeeping after its time is up, in seconds.
REPLY_GRACE = 0.5


@dataclass(slots=True)
class BeatReport:
    """What a beat found and did: the members of the reply. `duration` is in seconds.

    `goes_on` tells that its time was up before it had recorded what it did.
    """

    timestamp: datetime
    flows_due: int = 0
    flows_triggered: int = 0
    flows_succeeded: int = 0
    flows_failed: int = 0
    flows_in_progress: int = 0
    runs_reaped: int = 0
    duration: float = 0.0
    goes_on: bool = False
    run_ids: list[int] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """Return the counts and the duration: what the beat's row keeps."""
        left_out = {"timestamp", "goes_on", "run_ids"}
        return {name: getattr(self, name) for name in self.__slots__ if name not in left_out}


def run_beat(
    heartbeat: Heartbeat, source: str, wait: float | None, *, answer_early: bool = False
) -> BeatReport:
    """Run a beat and return its report: when all is done, or when `wait` seconds have passed.

    What still runs then goes on, and what is still due is left to the next beat. None waits
    without limit. `answer_early` returns after the first claim instead, while the beat goes on.
    Raises what kept the beat from working, such as DatabaseNotReadyError.
    """
    beat = _Beat(heartbeat, source, wait)
    threading.Thread(target=beat.work, name="heartbeat-beat", daemon=True).start()
    answerable = beat.claimed if answer_early else beat.ended
    answerable.wait(None if wait is None else wait + REPLY_GRACE)
    if beat.error is not None:
        raise beat.error
    return beat.answer or replace(beat.report(), goes_on=True)


class _Beat:
    """A beat while it goes on. Its own thread and those of its runs count in it."""

    def __init__(self, heartbeat: Heartbeat, source: str, wait: float | None) -> None:
        self.heartbeat, self.source = heartbeat, source
        self.began = heartbeat.clock.monotonic()
        self.deadline = self.began + (threading.TIMEOUT_MAX if wait is None else wait)
        self.so_far = BeatReport(heartbeat.clock.now())
        self.row_id: int | None = None
        self.error: BaseException | None = None
        self.answer: BeatReport | None = None
        # How often flows have caught up in it, and which may run, by id: see `due.free_of`.
        self.claims = Counter[int]()
        self.answers: dict[int, bool] = {}
        self.claimed, self.ended = threading.Event(), threading.Event()
        self.counting = threading.Lock()

    def work(self) -> None:
        """Do all of the beat, and leave its answer or its error."""
        try:
            register(self.heartbeat)
            if self._look():
                self._claim_and_execute()
                if self.heartbeat.executor.abandoned:
                    self.ended.set()  # the process stops: the reply waits for no database
                if self.answer is None:
                    with self.heartbeat.session() as session:
                        self.answer = self._save(session)
            if not self.heartbeat.executor.stopped:
                self._do_chores()
        except BaseException as error:  # noqa: BLE001 - raised again where the caller waits
            self.error = error
            if self._seconds_left() <= 0:  # the caller waits no more
                told = describe_error(error, self.heartbeat.secrets())
                log.error("a beat broke off\n%s", told["error_backtrace"])  # noqa: TRY400 - redacted
        finally:
            self.claimed.set()
            self.ended.set()

    def _do_chores(self) -> None:
        """Do what optional modules ask for. The answer stands: no chore changes or delays it."""
        self.claimed.set()
        if self._seconds_left() <= 0:
            self.ended.set()
        for chore in self.heartbeat.chores:
            try:
                chore(self.heartbeat)
            except Exception:
                log.exception("a chore failed: a later beat tries again")

    def report(self) -> BeatReport:
        """Return what is known by now."""
        with self.counting:
            duration = round(self.heartbeat.clock.monotonic() - self.began, 6)
            return replace(self.so_far, duration=duration, run_ids=[*self.so_far.run_ids])

    def _look(self) -> bool:
        """Reap, and tell whether there is anything to do; if not, that is all of the beat."""
        flows, free = self.heartbeat.flows, self._ask()
        with self.heartbeat.session() as session:
            now = self.heartbeat.clock.now()
            found = look(session, flows, now, *free)
            self.so_far.flows_due = found.due
            suspects = expired_runs(session, now) if found.expired else ()
            idle = not any(found)
            if idle:
                self.answer = self._save(session)
        if found.ahead:
            self.heartbeat.transact(lambda session: anchor_anew(session, self.heartbeat))
            with self.heartbeat.session() as session:
                self.so_far.flows_due = look(session, flows, now, *free).due
        if suspects:
            self.so_far.runs_reaped = reap(self.heartbeat, suspects)
        return not idle

    def _claim_and_execute(self) -> None:
        """Claim as many runs as there are free workers, until nothing is due or time is up."""
        executor = self.heartbeat.executor
        contended, short = 0, False
        while True:
            freed = executor.freed
            # A claim that left workers free took all that was due: more is only looked for.
            due = not short or self._anything_due()
            workers, runs = self._claim() if due and not executor.stopped else (0, [])
            for run in runs:
                executor.start(self._execute, run)
            short = len(runs) < workers
            pause = self._seconds_left()
            if runs:
                contended = 0
            elif self.so_far.flows_in_progress == 0:
                done = executor.stopped or not due or contended == CONTENDED_CLAIMS
                if done or not self._anything_due():
                    return
                if workers:
                    contended += 1
                    pause = min(pause, CONTENDED_PAUSE)
            executor.wait_until_freed(freed, pause)
            if self._seconds_left() <= 0 or executor.abandoned:
                return

    def _seconds_left(self) -> float:
        return self.deadline - self.heartbeat.clock.monotonic()

    def _claim(self) -> tuple[int, list[ClaimedRun]]:
        """Claim for all free workers; return how many there were, and what they are to run."""
        self._ask()
        with self.heartbeat.executor.free_workers() as workers:
            runs: list[ClaimedRun] = []
            if workers.free:
                try:
                    runs = self._claim_for(workers.free, singly=False)
                except IntegrityError:
                    runs = self._claim_for(workers.free, singly=True)
            workers.taken = len(runs)
        with self.counting:
            self.so_far.flows_triggered += len(runs)
            self.so_far.flows_in_progress += len(runs)
            self.so_far.run_ids += [run.id for run in runs]
        flows, most = self.heartbeat.flows, self.heartbeat.settings.catch_up_limit
        for run in runs:
            self.claims[run.data_flow_id] += flows[run.handler].catch_up == "all"
            if self.claims[run.data_flow_id] >= most:
                self.answers[run.data_flow_id] = False
        self.claimed.set()
        return workers.free, runs

    def _claim_for(self, workers: int, *, singly: bool) -> list[ClaimedRun]:
        def step(session: Session) -> tuple[list[ClaimedRun], int]:
            runs = claim(session, self.heartbeat, workers, self.answers, singly=singly)
            return runs, self.row_id or self._insert(session, self.report())

        runs, self.row_id = self.heartbeat.transact(step)
        return runs

    def _execute(self, run: ClaimedRun) -> None:
        status = execute(self.heartbeat, run)
        with self.counting:
            self.so_far.flows_in_progress -= 1
            self.so_far.flows_succeeded += status == RunStatus.SUCCESS
            self.so_far.flows_failed += status != RunStatus.SUCCESS

    def _ask(self) -> tuple[ColumnElement[bool], ...]:
        """Ask the conditions of what has come to be due; return what keeps flows from running."""
        if self.heartbeat.ask is not None:
            self.heartbeat.ask(self.heartbeat, self.answers)
        return free_of(self.heartbeat, self.answers)

    def _anything_due(self) -> bool:
        """Look again. What finds nothing when all runs have ended writes the beat's row, too."""
        free = self._ask()
        with self.heartbeat.session() as session:
            found = look(session, self.heartbeat.flows, self.heartbeat.clock.now(), *free)
            due = bool(found.due or found.pending)
            if not due and self.so_far.flows_in_progress == 0:
                self.answer = self._save(session)
        return due

    def _save(self, session: Session) -> BeatReport:
        """Insert the beat's row, or bring its counts up to date; return what it says."""
        report = self.report()
        if self.row_id is None:
            self._insert(session, report)
        else:
            session.connection().execute(_CHANGE_BEAT, {"beat": self.row_id, **report.counts()})
        return report

    def _insert(self, session: Session, report: BeatReport) -> int:
        row = {"received_at": report.timestamp, "source": self.source[:200], **report.counts()}
        key: Any = session.connection().execute(insert(_BEAT), row).inserted_primary_key
        return int(key.id)
