"""What the tasks of all peers do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

LINGER_SECONDS = 600


def noop() -> None:
    """Do nothing."""


def trace(name: str) -> None:
    """Tell, outside of any transaction, that this task was called."""
    traces = os.open(os.environ["BENCH_TRACES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(traces, f"{name}\n".encode())
    os.close(traces)


def linger(name: str) -> None:
    """Be at work for long enough to be killed."""
    trace(name)
    time.sleep(LINGER_SECONDS)


def milliseconds(began: float) -> float:
    """Give the time since a moment of `time.perf_counter`."""
    return (time.perf_counter() - began) * 1000


def wait_for(
    done: Callable[[], object], wanted: object, pause: float = 0.01, patience: float = 600
) -> None:
    """Call `done` until it returns what is wanted; not so often that it slows what it waits for."""
    deadline = time.monotonic() + patience
    while done() != wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"still {done()} instead of {wanted}")
        time.sleep(pause)
