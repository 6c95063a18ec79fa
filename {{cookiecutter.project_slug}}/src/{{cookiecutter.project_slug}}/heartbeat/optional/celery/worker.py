"""The worker: `celery -A <package>.heartbeat.optional.celery.worker worker`.

It is the rendered application, made from the .ini file that HEARTBEAT_CONFIG names: the same flows,
settings, database and log. Each process of the pool takes runs under claims of its own.
"""

import logging
import os
import signal
import threading
import time
from contextlib import ExitStack
from functools import cache, partial
from importlib import import_module
from typing import Any

from ...cli.application import CommandError, application, check_file
from ...core import Heartbeat
from ...errors import SettingsError
from ...runs.execute import execute
from ...runs.register import register
from ...runs.release import release_in_doubt
from ...runs.request import claim_pending
from ...stopping import LAST_SECONDS, drain
from .sending import TASK, load_celery, make_celery


def make_worker(heartbeat: Heartbeat) -> Any:
    """Return the Celery application of a worker."""
    worker, stopping = make_celery(heartbeat), _Stopping(heartbeat)
    signals = load_celery().signals
    worker.conf.worker_consumer = f"{__name__}:{make_consumer.__name__}"

    def run(run_id: int) -> None:
        if os.getpid() != stopping.parent:
            # A service manager may send it to all processes of the service: the parent handles it.
            # Celery sets a handler of its own at the start of the process.
            signal.signal(signal.SIGTERM, lambda *_: None)
        execute_run(heartbeat, run_id)

    worker.task(run, name=TASK)
    # The .ini file has set up logging. At INFO, Celery writes two lines more for each run.
    celery_log = logging.getLogger("celery")
    celery_log.setLevel(celery_log.level or logging.WARNING)
    signals.setup_logging.connect(lambda **_: None, weak=False)
    signals.worker_ready.connect(lambda **_: heartbeat.log_start(), weak=False)
    signals.worker_process_init.connect(lambda **_: stopping.begin_process(), weak=False)
    signals.worker_shutting_down.connect(lambda **_: stopping.begin(), weak=False)
    return worker


def make_consumer(*arguments: Any, worker_options: dict[str, Any], **more: Any) -> Any:
    """Return a consumer without what is of no use here, and leaks or hangs on recent brokers.

    That is the talk between workers, and 28 queues for messages with a delay.
    """
    make = import_module("celery.worker.consumer").Consumer
    steps = make.Blueprint.default_steps
    make.Blueprint.default_steps = [each for each in steps if "delayed_delivery" not in each]
    silent = dict.fromkeys(("without_gossip", "without_mingle", "without_heartbeat"), True)
    consumer = make(*arguments, worker_options={**worker_options, **silent}, **more)
    call_soon = consumer.call_soon_ack
    consumer.call_soon_ack = lambda *given: call_soon(partial(_answer, consumer, *given))
    return consumer


def _answer(consumer: Any, answer: Any, log: Any, errors: Any, *options: Any) -> None:
    """Answer a message. If this fails while the worker runs, it connects to the broker again.

    Celery would go on, and on Redis wait forever: the message counts as unanswered, and a worker
    with as many of them as it may have does not look at its connection.
    """
    # The answer to a message of an earlier connection fails, and means nothing.
    is_current = answer.__self__.channel is getattr(consumer.task_consumer, "channel", None)
    runs = consumer.blueprint.state == import_module("celery.bootsteps").RUN
    answer(log, () if is_current and runs else errors, *options)


def execute_run(heartbeat: Heartbeat, run_id: int) -> None:
    """Take a pending run under a claim of its own, and execute it.

    Does nothing if there is none: the message has come before, or too late. Raises Reject if the
    process stops, so that another one gets the message.
    """
    if heartbeat.executor.stopped:
        raise load_celery().exceptions.Reject(requeue=True)
    register(heartbeat, heartbeat.waiting_beats)
    release_in_doubt(heartbeat)
    for run in claim_pending(heartbeat, [run_id]):
        with heartbeat.executor.working_here(run):
            execute(heartbeat, run)


# Kept open for the life of the process.
_stack = ExitStack()


class _Stopping:
    """The stop of a worker and its child processes. Made by the parent, before it forks.

    Celery alone would wait for the runs without limit. The parent gets the signal, but the runs are
    in its children: each of them waits at a pipe, which ends when the parent stops, or dies.
    """

    def __init__(self, heartbeat: Heartbeat) -> None:
        self.heartbeat, self.parent, self._begun = heartbeat, os.getpid(), threading.Event()
        self._reader, self._writer = os.pipe()

    def begin_process(self) -> None:
        """Begin the work of a child process."""
        # Connections of the parent are not ours, and stay open there.
        self.heartbeat.engine.dispose(close=False)
        self.heartbeat.flow_engine.dispose(close=False)
        if os.getpid() != self.parent:  # it is not a fork where the pool has no processes
            os.close(self._writer)
        self._watch()

    def begin(self) -> None:
        """In the parent, stop all processes of the worker: they end in time."""
        if not self._begun.is_set():
            self._begun.set()
            os.close(self._writer)
            self._watch()

    def _watch(self) -> None:
        threading.Thread(target=self._stop, daemon=True).start()

    def _stop(self) -> None:
        os.read(self._reader, 1)
        deadline = time.monotonic() + self.heartbeat.settings.shutdown_grace + LAST_SECONDS
        drain()
        if not self.heartbeat.executor.abandoned:  # Celery ends the process, if it can
            time.sleep(max(deadline - time.monotonic(), 0))
        os._exit(0)


@cache
def __getattr__(name: str) -> Any:
    """Make the Celery application `app` when it is read. Exits with an error of one line."""
    if name != "app":
        raise AttributeError(name)
    config = os.environ.get("HEARTBEAT_CONFIG", "development.ini")
    try:
        return make_worker(_stack.enter_context(application(check_file(config))))
    except (CommandError, SettingsError) as error:
        raise SystemExit(f"Error: {error}") from None
