"""The server: waitress, and an end in good order when the process is told to stop.

`use = egg:...#server` in an .ini file names `serve`; gunicorn's configuration, `worker_exit`.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from waitress.server import create_server
from waitress.task import ThreadedTaskDispatcher

from .core import Heartbeat, heartbeats
from .errors import Interrupted
from .runs.reap import end_lost
from .runs.run import ClaimedRun

# What there is after `shutdown_grace`, in seconds, for all that follows; and what marking runs gets
# of it, once before what they have started is ended, and once after.
LAST_SECONDS = 4.0
MARKING_SECONDS = 1.5
SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger(__name__)


def serve(wsgi_app: Any, _global_conf: dict[str, str], **settings: Any) -> None:
    """Serve an application with waitress, and its settings, until SIGTERM or SIGINT comes.

    Then nothing is claimed any more, runs may go on for `heartbeat.shutdown_grace`, those that do
    not end become `failed` with the error type `Interrupted`, and the process exits with 0, 5
    seconds after that time at the latest. Functions of `atexit` are not called: they might wait
    for a flow. A second signal ends the process at once, as if by that signal.
    """
    logging.basicConfig()  # does nothing where the .ini file has set up logging
    told = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in SIGNALS:
            signal.signal(number, _end_at_once)
        told.set()

    # Before anybody can connect: who sees that it listens may tell it to stop.
    for number in SIGNALS:
        signal.signal(number, stop)
    server = create_server(wsgi_app, **settings)
    _start(_exit_when, told, server.task_dispatcher)
    server.print_listen("Serving on http://{}:{}")
    server.run()


def worker_exit(_server: object, worker: Any) -> None:
    """Stop a worker of gunicorn as `serve` stops its process: for the hook of the same name."""
    # The hook is called in the parent too, whose heartbeats are those of workers to come.
    if worker.pid == os.getpid():
        drain()


def drain() -> None:
    """Claim nothing any more, let the runs of this process end, and fail those that do not."""
    for thread in [_start(_drain, heartbeat) for heartbeat in list(heartbeats)]:
        thread.join()


def _start(work: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, name="heartbeat-stop", daemon=True)
    thread.start()
    return thread


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    # Not left to the signal's default, which ends no process that is a container's first.
    os._exit(128 + number)


def _exit_when(told: threading.Event, web_threads: ThreadedTaskDispatcher) -> None:
    told.wait()
    seconds = LAST_SECONDS + max((beat.settings.shutdown_grace for beat in heartbeats), default=0)
    try:
        # On a thread: whatever hangs, a flow or the pipe that takes the log, the process ends.
        _start(_end_in_order, web_threads, time.monotonic() + seconds).join(seconds)
    finally:
        # Not sys.exit, since a thread that a flow has started may keep the interpreter.
        os._exit(0)


def _end_in_order(web_threads: ThreadedTaskDispatcher, deadline: float) -> None:
    drain()
    # Waits for what is being answered.
    web_threads.shutdown(timeout=max(1, int(deadline - time.monotonic())))
    logging.shutdown()
    sys.stdout.flush()


def _drain(heartbeat: Heartbeat) -> None:
    executor, grace = heartbeat.executor, heartbeat.settings.shutdown_grace
    runs = executor.stop()
    log.info("stopping: %d runs at work have %d s to end", len(runs), grace)
    executor.wait_until_idle(grace)
    marking = _start(_mark, heartbeat, executor.stop(abandon=True))
    marking.join(MARKING_SECONDS)
    for end in heartbeat.at_exit:
        try:
            end()
        except Exception:
            log.exception("what a run has started may outlive this process")
    # On SQLite it may have waited for the lock of what has just ended.
    marking.join(MARKING_SECONDS)


def _mark(heartbeat: Heartbeat, runs: list[ClaimedRun]) -> None:
    """Fail the runs, each in a transaction of its own; their threads can commit nothing then."""
    grace = heartbeat.settings.shutdown_grace
    for run in runs:
        try:
            if end_lost(heartbeat, run, Interrupted(run.worker, grace)):
                log.warning("%s was interrupted: run %d", run.flow_name, run.id)
        except Exception:
            log.exception("run %d could not be marked: it is reaped when its lease ends", run.id)
