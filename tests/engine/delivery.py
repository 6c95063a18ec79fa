"""The functional tests with TEST_EXECUTOR=celery: beats hand over, and a worker executes.

All of the engine's own code for Celery is used, but for the connection to the broker: what a beat
sends is delivered within this process, by threads that take one message after the other, as those
of a worker's pool do. Other processes that a test starts have the executor of their settings.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest

from data_flows.heartbeat import Heartbeat
from data_flows.heartbeat.clock import Clock
from data_flows.heartbeat.runs.beat import Beat
from data_flows.heartbeat.settings import Settings

EXECUTOR = os.environ.get("TEST_EXECUTOR") or "local"
# What a test's own settings do not say. By default, a beat with Celery waits for no run. This is
# longer than a beat waits for a slot, so that it waits for the run of the slot, too.
SETTINGS = {
    "heartbeat.executor": "celery",
    "heartbeat.celery_broker_url": "memory://",
    "heartbeat.wait": "40s",
}
THREAD = "celery-worker"
# How often a waiting beat looks whether its process stops, and how long it waits, in seconds.
LOOK_SECONDS, WAIT_SECONDS = 0.05, 30.0


class Delivery:
    """Takes the place of `Sender`: executes the runs that a beat sends, in the order of sending."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self.heartbeat = heartbeat
        self._changed = threading.Condition()
        self._queue = deque[int]()
        self._threads = 0
        self._undone = set[int]()

    def send(self, runs: Sequence[Any]) -> None:
        """Give the ids of these runs to the worker's threads."""
        with self._changed:
            self._queue.extend(run.id for run in runs)
            self._undone.update(run.id for run in runs)
            new = min(self.heartbeat.settings.workers - self._threads, len(self._queue))
            self._threads += new
        for _ in range(new):
            threading.Thread(target=self._work, name=THREAD, daemon=True).start()

    def _work(self) -> None:
        worker: Any = import_module("data_flows.heartbeat.optional.celery.worker")
        reject: Any = import_module("celery.exceptions").Reject
        while (run_id := self._next()) is not None:
            try:
                worker.execute_run(self.heartbeat, run_id)
            except reject:
                pass  # the process stops: the run stays pending
            finally:
                with self._changed:
                    self._undone.discard(run_id)
                    self._changed.notify_all()

    def _next(self) -> int | None:
        with self._changed:
            if self._queue:
                return self._queue.popleft()
            self._threads -= 1
            return None

    def wait_for_end(self, runs: set[int]) -> None:
        """Wait until a thread is done with one of these runs, or the process stops."""
        deadline = time.monotonic() + WAIT_SECONDS
        with self._changed:
            while not self.heartbeat.executor.stopped and time.monotonic() < deadline:
                if self._changed.wait_for(lambda: not runs <= self._undone, LOOK_SECONDS):
                    return


@contextmanager
def delivering() -> Iterator[None]:
    """Make applications with the executor celery, whose runs are delivered here."""
    sending: Any = import_module("data_flows.heartbeat.optional.celery.sending")
    read = Settings.read
    count_ended = Beat.count_ended

    def read_settings(ini: Mapping[str, Any], *arguments: Any) -> Settings:
        return read({**SETTINGS, **ini}, *arguments)

    def wait_and_count(beat: Beat, waiting: set[int]) -> bool:
        # A clock that stands still moves ahead when a beat sleeps, and the runs take no time.
        if type(beat.heartbeat.clock) is not Clock and waiting and beat.seconds_left() > 0:
            hand_over: Any = beat.heartbeat.hand_over
            send = hand_over.args[0]
            send.__self__.wait_for_end(waiting)
        return count_ended(beat, waiting)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settings, "read", read_settings)
        patch.setattr(sending, "Sender", Delivery)
        patch.setattr(Beat, "count_ended", wait_and_count)
        yield
