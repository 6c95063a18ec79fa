"""Chaos among web processes that hand runs over to Celery, its workers, and its broker."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from .audit import Span
from .beating import DEEDS, LONG_STOP, Chaos
from .broker import CRASH, LASTS, MAIL, BrokerTroubles
from .processes import Worker, wait_until

if TYPE_CHECKING:
    from .broker import Broker
    from .databases import Database
    from .place import Place
    from .processes import Process, Site

WEB = 2
WEB_DEEDS = {"kills": 3, "short stops": 2, "long stops": 1, "terminations": 1}
POOLS = ("prefork", "prefork", "threads")
# What is done to a worker, and how often compared with the others.
ALL, PARENT, CHILD = "worker kills", "parent kills", "child kills"
STOP, TERMINATE = "worker stops", "worker terminations"
WORKER_DEEDS = {ALL: 3, PARENT: 2, CHILD: 6, STOP: 1, TERMINATE: 1}
# The pool of a parent that was killed interrupts its runs after `shutdown_grace`, and ends.
POOL_ENDS = 15.0


class HandingOver(Chaos):
    """One run of chaos with the executor celery."""

    beaters, weights = 2, WEB_DEEDS
    counted = (*DEEDS, *WORKER_DEEDS, "database restarts", *LASTS, CRASH, *MAIL.values())

    def __init__(
        self, site: Site, database: Database, broker: Broker, seed: int, seconds: float
    ) -> None:
        """Take what is to be beaten, and for how long."""
        super().__init__(site, database, seed, seconds)
        self.broker = broker
        self.mishaps = BrokerTroubles(site, broker, self.facts, self.deeds, self.tell)
        self.troubles = self.mishaps

    def start(self) -> list[Process]:
        """Start two web processes and three workers."""
        processes: list[Process] = [
            *(self.site.start() for _ in range(WEB)),
            *(self.site.start_worker(self.broker.queue, pool) for pool in POOLS),
        ]
        for process in processes:
            process.wait_until_ready()
        return processes

    def replace(self, place: Place) -> None:
        """Start another process of the same kind."""
        process = place.process
        if isinstance(process, Worker):
            place.process = self.site.start_worker(self.broker.queue, process.pool)
        else:
            super().replace(place)

    def up_and_free(self) -> list[Place]:
        """Return the places that may be harmed: one of each kind is left to serve."""
        up = [place for place in self.places if place.works]
        web = [place for place in up if place.process.takes_beats]
        workers = [place for place in up if not place.process.takes_beats]
        return [place for kind in (web, workers) if len(kind) > 1 for place in kind]

    def disturb(self, now: float) -> None:
        """Do something to the broker."""
        self.mishaps.disturb(self.random, now)

    def act(self, place: Place, now: float) -> None:
        """Do something to a process that serves."""
        worker = place.process
        if not isinstance(worker, Worker):
            super().act(place, now)
            return
        (deed,) = self.random.choices(list(WORKER_DEEDS), list(WORKER_DEEDS.values()))
        children = worker.children
        if deed == CHILD and not children:
            deed = ALL
        self.deeds[deed] += 1
        self.tell(f"{deed}: {worker.id} with {children}")
        if deed == ALL:
            self.kill(place, now)
        elif deed == PARENT:
            self.ended(worker, POOL_ENDS)
            worker.kill_parent()
            place.until = now + self.random.uniform(0.0, 1.0)
        elif deed == CHILD:
            moment = datetime.now(UTC)
            child = self.random.choice(children)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            self.facts.disturbed[child].append(Span(moment, moment + timedelta(seconds=1)))
        elif deed == STOP:
            self.stop(place, now, LONG_STOP)
        else:
            self.terminate(place, now)

    def stuck(self) -> list[str]:
        """Tell of the processes that are of no use any more, or do not end."""
        workers = [each for each in self.site.processes if isinstance(each, Worker) and each.ended]
        with suppress(TimeoutError):
            wait_until(lambda: not any(each.left_behind for each in workers), "the pools end")
        return super().stuck() + [
            f"the pool of worker {worker.id} does not end: {worker.left_behind}"
            for worker in workers
            if worker.left_behind
        ]

    def idle(self) -> list[Process]:
        """Return the processes that have claimed nothing, or the workers that have run nothing."""
        since = self.calm_since
        begun = {
            run.process
            for run in self.site.history().runs
            if run.started_at is not None and run.started_at > since
        }
        return [
            process
            for process in super().idle()
            if not isinstance(process, Worker) or begun.isdisjoint(process.ids)
        ]
