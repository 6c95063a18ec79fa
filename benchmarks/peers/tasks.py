"""The tasks of all peers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

LINGER_SECONDS = 600


def noop() -> None:
    """Do nothing."""


def trace(name: str) -> None:
    """Record a call of this task outside of any transaction."""
    traces = os.open(os.environ["BENCH_TRACES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(traces, f"{name}\n".encode())
    os.close(traces)


def linger(name: str) -> None:
    """Run for long enough to be killed."""
    trace(name)
    time.sleep(LINGER_SECONDS)


def milliseconds(began: float) -> float:
    """Return the milliseconds since a time of `time.perf_counter`."""
    return (time.perf_counter() - began) * 1000


def wait_for(
    done: Callable[[], object], wanted: object, pause: float = 0.01, patience: float = 600
) -> None:
    """Call `done` until it returns the wanted value, with pauses that leave the CPU to tasks."""
    deadline = time.monotonic() + patience
    while done() != wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"The value is still {done()} instead of {wanted}")
        time.sleep(pause)
