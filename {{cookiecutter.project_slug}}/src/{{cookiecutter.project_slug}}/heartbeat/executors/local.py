"""The local executor: a limited number of runs at once, each on a thread of this process."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..run import ClaimedRun

# How many seconds a thread waits for another run before it ends: short runs reuse it, and an idle
# application has none.
LINGER = 0.1
# How long a free worker waits for the next one, in seconds: one claim then serves them all.
GATHER = 0.005


log = logging.getLogger(__name__)


@dataclass
class FreeWorkers:
    """How many workers a claim may use, and how many of them it has `taken`.

    given_back: set after the claim: whether it left workers unused.
    """

    free: int
    taken: int = 0
    given_back: bool = False


class LocalExecutor:
    """Counts free workers, starts runs, and knows which runs are at work in this process.

    A worker is reserved before its run is claimed.

    The threads are daemons: those of an ordinary pool are waited for at exit without limit. When
    the process stops, `stopped` means that nothing is to be claimed any more, and later `abandoned`
    that runs are left at work for which nobody is to wait.
    """

    def __init__(self, workers: int) -> None:
        self._workers = self._free = workers
        self._freed = self._claims = 0
        self._at_work: list[ClaimedRun] = []
        self._waiting = 0
        self._jobs: deque[tuple[Callable[[ClaimedRun], object], ClaimedRun]] = deque()
        self._given = threading.Condition()
        self.stopped = self.abandoned = False
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        # Notified when all workers are free or the executor stops, and not for each worker.
        self._idle = threading.Condition(lock)
        # Set while runs are at work.
        self.busy = threading.Event()

    @property
    def freed(self) -> int:
        """How often a worker became free, or was stopped: `wait_until_freed` compares with it."""
        return self._freed

    @contextmanager
    def free_workers(self, wait: float = 0.0) -> Iterator[FreeWorkers]:
        """Reserve the free workers for a claim, which sets how many it has `taken`.

        No lock is held meanwhile: a claim that waits for the database keeps no other from the
        workers that become free. `wait`: the seconds to wait for one that other claims reserve.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._free or not self._claims or self.stopped, wait)
            workers = FreeWorkers(0 if self.stopped else self._free)
            self._free -= workers.free
            self._claims += 1
        try:
            yield workers
        finally:
            with self._changed:
                self._claims -= 1
                workers.given_back = workers.taken < workers.free
                self._free += workers.free - workers.taken
                self._freed += workers.given_back
                self._notify()

    def start(self, job: Callable[[ClaimedRun], object], run: ClaimedRun) -> None:
        """Run `job` on a worker that was taken before; it is free again when the job ends."""
        self._begin(run)
        with self._given:
            self._jobs.append((job, run))
            self._given.notify()
            enough = self._waiting >= len(self._jobs)
        if enough:
            return
        try:
            threading.Thread(target=self._work, name="heartbeat-worker", daemon=True).start()
        except RuntimeError:  # no thread can be started: the claimed run executes here
            self._work(linger=0)

    def _work(self, linger: float = LINGER) -> None:
        """Run one job after the other, until there is none for `linger` seconds."""
        while True:
            with self._given:
                self._waiting += 1
                self._given.wait_for(lambda: self._jobs, linger)
                self._waiting -= 1
                if not self._jobs:
                    return
                job, run = self._jobs.popleft()
            try:
                job(run)
            except BaseException:
                log.exception("run %d broke off: it is reaped when its lease ends", run.id)
            finally:
                self._end(run)
                with self._changed:
                    self._free += 1
                    self._freed += 1
                    self._notify()

    @contextmanager
    def working_here(self, run: ClaimedRun) -> Iterator[None]:
        """Count `run` as at work during the block, on this thread and without a worker."""
        self._begin(run)
        try:
            yield
        finally:
            self._end(run)

    def runs_at_work(self) -> list[ClaimedRun]:
        """Return the runs that are at work in this process."""
        with self._changed:
            return [*self._at_work]

    def _begin(self, run: ClaimedRun) -> None:
        with self._changed:
            self._at_work.append(run)
            self.busy.set()

    def _end(self, run: ClaimedRun) -> None:
        with self._changed:
            self._at_work.remove(run)
            if not self._at_work:
                self.busy.clear()

    def _notify(self) -> None:
        self._changed.notify_all()
        if self._free == self._workers or self.stopped:
            self._idle.notify_all()

    def wait_until_freed(self, since: int, seconds: float) -> None:
        """Wait until `freed` is no longer `since`, at most `seconds`; then for those just behind.

        Where short runs end one after the other, the next claim then serves all their workers.
        """
        with self._changed:
            another = self._changed.wait_for(lambda: self._freed != since, seconds)
            while another and self._free < self._workers and not self.stopped:
                before = self._freed
                self._idle.wait(GATHER)
                another = self._freed != before

    def stop(self, *, abandon: bool = False) -> list[ClaimedRun]:
        """Offer no free worker from now on; return the runs at work.

        Wakes the threads that wait for a worker; with `abandon`, also those waiting for these runs.
        """
        with self._changed:
            self.stopped = True
            self.abandoned = abandon and bool(self._at_work)
            self._freed += 1
            self._notify()
            return [*self._at_work]

    def wait_until_idle(self, seconds: float) -> None:
        """Wait until no run is at work, nor being claimed, at most `seconds`. To follow `stop`."""
        with self._changed:
            self._idle.wait_for(lambda: self._free == self._workers and not self._claims, seconds)
