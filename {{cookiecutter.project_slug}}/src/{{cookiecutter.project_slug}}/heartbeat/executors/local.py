"""The local executor: a limited number of runs at once, each on a thread of this process."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..models import RunStatus
from ..run import ClaimedRun

# How many seconds a thread waits for another run before it ends: short runs reuse it, and an idle
# application has none.
LINGER = 0.1
# How far ahead of the workers a beat may claim, in seconds: as many runs as have ended in the time
# before.
AHEAD = 0.05
# How long ended runs are gathered while others wait for a worker, in seconds: less than half of
# AHEAD, so that the workers have enough to do until the next claim.
GATHER = 0.02

log = logging.getLogger(__name__)

# Executes a run. Returns None if its end is not recorded yet: it is at work until `end` is called.
Job = Callable[[ClaimedRun], RunStatus | None]


@dataclass
class Room:
    """How many runs a claim may take, and how many of them it has `taken`.

    left: set after the claim: whether it took fewer.
    """

    free: int
    taken: int = 0
    left: bool = False


@dataclass(eq=False, slots=True)
class Waiting:
    """A claimed run that waits for a worker, since a monotonic time."""

    run: ClaimedRun
    job: Job
    since: float


class LocalExecutor:
    """Starts claimed runs on its workers, and knows which runs are at work in this process.

    Room is reserved before runs are claimed for it. The runs that no worker can begin at once wait
    in a queue, from which `take_back` removes them.

    The threads are daemons: those of an ordinary pool are waited for at exit without limit. When
    the process stops, `stopped` means that nothing is claimed any more, and later `abandoned` that
    nobody waits for the runs that are still at work.
    """

    def __init__(self, workers: int, ahead: int = 0) -> None:
        """`ahead`: the limit for the runs that wait for a worker."""
        self._workers = workers
        self._running = self._reserved = self._claims = self._freed = 0
        self._at_work: dict[str, ClaimedRun] = {}
        self._queue: deque[Waiting] = deque()
        self._ends: deque[float] = deque(maxlen=max(ahead, 1))
        self._ahead = ahead
        # Threads of workers, and how many of them wait for a run.
        self._threads = self._idle_threads = 0
        self.stopped = self.abandoned = False
        lock = threading.Lock()
        self._given = threading.Condition(lock)
        self._changed = threading.Condition(lock)
        # Notified when no run waits for a worker, and not for each run.
        self._drained = threading.Condition(lock)
        # Set while runs are at work.
        self.busy = threading.Event()

    @property
    def freed(self) -> int:
        """How often a worker became free, or was stopped: `wait_until_freed` compares with it."""
        return self._freed

    @property
    def is_behind(self) -> bool:
        """Whether claimed runs wait for a worker."""
        return bool(self._queue)

    @contextmanager
    def reserve(self, wait: float = 0.0, *, ahead: bool = False) -> Iterator[Room]:
        """Reserve the free workers for a claim, which sets how many runs it has `taken`.

        No lock is held meanwhile: a claim that waits for the database keeps no other from the
        workers that become free.

        wait: the seconds to wait for a worker that other claims reserve.
        ahead: reserve also for the runs that will soon begin, at the rate of the last runs.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._free() > 0 or not self._claims or self.stopped, wait
            )
            free = self._free() + (self._soon_free() if ahead else 0)
            room = Room(0 if self.stopped else max(free, 0))
            self._reserved += room.free
            self._claims += 1
        try:
            yield room
        finally:
            with self._changed:
                self._claims -= 1
                self._reserved -= room.free - room.taken
                room.left = room.taken < room.free
                self._freed += room.left
                self._changed.notify_all()

    def _free(self) -> int:
        return self._workers - self._running - len(self._queue) - self._reserved

    def _soon_free(self) -> int:
        """Return how many runs will begin within AHEAD: as many as have ended in that time."""
        since = time.monotonic() - AHEAD
        return sum(end > since for end in self._ends) if self._ahead else 0

    def start(self, job: Job, run: ClaimedRun) -> None:
        """Give a run, for which there was room, to the next free worker."""
        with self._changed:
            self._begin(run)
            self._reserved -= 1
            self._queue.append(Waiting(run, job, time.monotonic()))
            self._given.notify()
            enough = self._idle_threads >= len(self._queue) or self._threads >= self._workers
            self._threads += not enough
        if enough:
            return
        try:
            threading.Thread(target=self._work, name="heartbeat-worker", daemon=True).start()
        except RuntimeError:  # no thread can be started: the claimed run executes here
            self._work(linger=0)

    def _work(self, linger: float = LINGER) -> None:
        """Execute one run after the other, until there is none for `linger` seconds."""
        while (waiting := self._next(linger)) is not None:
            run = waiting.run
            status: RunStatus | None = RunStatus.FAILED
            try:
                status = waiting.job(run)
            except BaseException:
                log.exception("run %d broke off: it is reaped when its lease ends", run.id)
            finally:
                if status:
                    self.end(run.claim_id)
                with self._changed:
                    self._running -= 1
                    self._ends.append(time.monotonic())
                    self._freed += 1
                    self._changed.notify_all()

    def _next(self, linger: float) -> Waiting | None:
        """Wait for a run; None ends the thread."""
        with self._given:
            self._idle_threads += 1
            self._given.wait_for(lambda: self._queue, linger)
            self._idle_threads -= 1
            if not self._queue:
                self._threads -= 1
                return None
            self._running += 1
            waiting = self._queue.popleft()
            if not self._queue:
                self._drained.notify_all()
            return waiting

    def take_back(self, job: Job, seconds: float) -> list[ClaimedRun]:
        """Remove the runs of `job` that busy workers have kept waiting so long; return them.

        They are at work until `end` is called, so that their leases are renewed.
        """
        limit = time.monotonic() - seconds
        with self._changed:
            # The first ones are about to begin on idle workers, whose threads may be starting yet.
            behind = [*self._queue][max(self._workers - self._running, 0) :]
            late = [one for one in behind if one.job == job and one.since <= limit]
            for waiting in late:
                self._queue.remove(waiting)
            if late and not self._queue:
                self._drained.notify_all()
        return [waiting.run for waiting in late]

    def end(self, *claims: str) -> None:
        """Count the runs of these claims as no longer at work: they were recorded or released."""
        with self._changed:
            for claim in claims:
                self._at_work.pop(claim, None)
            if not self._at_work:
                self.busy.clear()
                self._changed.notify_all()

    @contextmanager
    def working_here(self, run: ClaimedRun) -> Iterator[None]:
        """Count `run` as at work during the block, on this thread and without a worker."""
        with self._changed:
            self._begin(run)
        try:
            yield
        finally:
            self.end(run.claim_id)

    def runs_at_work(self) -> list[ClaimedRun]:
        """Return the runs that are at work in this process."""
        with self._changed:
            return [*self._at_work.values()]

    def _begin(self, run: ClaimedRun) -> None:
        self._at_work[run.claim_id] = run
        self.busy.set()

    def wait_until_freed(self, since: int, seconds: float) -> None:
        """Wait until `freed` is no longer `since`, at most `seconds`.

        While runs wait for a worker, wait a little longer: one claim then serves more of them.
        """
        with self._changed:
            freed = self._changed.wait_for(lambda: self._freed != since, seconds)
            if freed and not self.stopped:
                self._drained.wait_for(lambda: not self._queue, min(GATHER, seconds))

    def wake(self) -> None:
        """Wake the threads that wait for a worker, as if one had become free."""
        with self._changed:
            self._freed += 1
            self._changed.notify_all()

    def stop(self, *, abandon: bool = False) -> list[ClaimedRun]:
        """Offer no free worker from now on; return the runs at work.

        Wakes the threads that wait for a worker; with `abandon`, also those waiting for these runs.
        """
        with self._changed:
            self.stopped = True
            self.abandoned = abandon and bool(self._at_work)
            self._freed += 1
            self._changed.notify_all()
            self._drained.notify_all()
            return [*self._at_work.values()]

    def wait_until_idle(self, seconds: float) -> None:
        """Wait until no run is at work, nor being claimed, at most `seconds`. To follow `stop`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._at_work and not self._claims, seconds)
