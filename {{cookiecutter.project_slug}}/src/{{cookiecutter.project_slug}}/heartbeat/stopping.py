"""The graceful stop of a process whose threads execute runs: the server, or another one."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from .core import Heartbeat, heartbeats
from .errors import Interrupted
from .redaction import describe_error
from .run import ClaimedRun
from .runs.finish import end_lost

# The seconds after `shutdown_grace` for all that follows. Of these, marking the runs as interrupted
# may take this long, once before and once after the shutdown hooks.
LAST_SECONDS = 4.0
MARKING_SECONDS = 1.5
# The seconds until a run whose rows were locked is marked again.
RETRY_SECONDS = 0.1
SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger(__name__)


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set. A second signal ends the process at once."""
    stop_requested = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in SIGNALS:
            signal.signal(number, _end_at_once)
        stop_requested.set()

    for number in SIGNALS:
        signal.signal(number, stop)
    return stop_requested


def exit_in_order(finish: Callable[[float], object]) -> NoReturn:
    """Drain the process, call `finish` with the seconds that are left, and exit with 0.

    The process ends in time whatever its flows and `finish` do.
    """
    seconds = LAST_SECONDS + max((beat.settings.shutdown_grace for beat in heartbeats), default=0)
    try:
        # On a thread, so that the process ends even if a flow or the pipe of the log hangs.
        start_thread(_end_in_order, finish, time.monotonic() + seconds).join(seconds)
    finally:
        # Not sys.exit: it waits for threads that a flow has started.
        os._exit(0)


def drain() -> None:
    """Stop claiming, wait for the runs of this process, and fail those that do not end in time."""
    for thread in [start_thread(_drain, heartbeat) for heartbeat in list(heartbeats)]:
        thread.join()


def start_thread(work: Callable[..., None], *arguments: object) -> threading.Thread:
    """Start a thread for a step of the stop, and return it."""
    thread = threading.Thread(target=work, args=arguments, name="heartbeat-stop", daemon=True)
    thread.start()
    return thread


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    # The signal's default does not end a process that is the first one of a container.
    os._exit(128 + number)


def _end_in_order(finish: Callable[[float], object], deadline: float) -> None:
    drain()
    finish(deadline - time.monotonic())
    logging.shutdown()
    with suppress(BrokenPipeError):
        sys.stdout.flush()


def _drain(heartbeat: Heartbeat) -> None:
    executor = heartbeat.executor
    grace = heartbeat.settings.shutdown_grace
    runs = executor.stop()
    log.info("stopping: %d running flows have %d s to end", len(runs), grace)
    executor.wait_until_idle(grace)
    marking = start_thread(_mark, heartbeat, executor.stop(abandon=True))
    marking.join(MARKING_SECONDS)
    for end in heartbeat.at_exit:
        try:
            end()
        except Exception as error:  # noqa: BLE001 - the process ends anyway
            details = describe_error(error, heartbeat.secrets())
            message = "a shutdown hook failed: child processes of runs may outlive this process\n%s"
            log.error(message, details["error_backtrace"])  # noqa: TRY400 - redacted
    # On SQLite it may have waited for a lock that a process, ended by a hook, has held.
    marking.join(MARKING_SECONDS)


def _mark(heartbeat: Heartbeat, runs: list[ClaimedRun]) -> None:
    """Fail the runs, each in its own transaction, after which their threads cannot commit."""
    deadline = time.monotonic() + 2 * MARKING_SECONDS
    while runs and time.monotonic() < deadline:
        missed = [run for run in runs if not _mark_one(heartbeat, run)]
        at_work = heartbeat.executor.runs_at_work()
        # Their rows were locked, for example while their leases were renewed.
        runs = [run for run in missed if run in at_work]
        if runs:
            time.sleep(RETRY_SECONDS)


def _mark_one(heartbeat: Heartbeat, run: ClaimedRun) -> bool:
    """Fail a run; return whether it was ended. It is not if its rows are locked at this moment."""
    try:
        return end_lost(heartbeat, run, Interrupted(run.worker, heartbeat.settings.shutdown_grace))
    except Exception as error:  # noqa: BLE001 - the other runs are marked anyway
        details = describe_error(error, heartbeat.secrets())
        message = "run %d could not be marked: it is reaped when its lease ends\n%s"
        log.error(message, run.id, details["error_backtrace"])  # noqa: TRY400 - redacted
        return True
