"""Sends the ids of runs, on a thread of its own: a beat waits two seconds for the broker."""

import threading
from collections.abc import Sequence
from importlib import import_module
from queue import Empty, SimpleQueue
from typing import Any

from ...core import Heartbeat
from ...errors import SettingsError
from ...redaction import describe_error
from ...run import ClaimedRun

PACKAGE = __package__.partition(".")[0]
# The default queue and the task are named after the project: its workers take no other's runs.
TASK = f"{PACKAGE}.heartbeat.run"
# What a beat waits for the broker, in seconds, and each step of the sending thread.
SEND_SECONDS = 2.0
SEND_LIMITS = ("read_timeout", "write_timeout", "socket_timeout", "socket_connect_timeout")
# After this time, Redis gives a message that is not acknowledged to another worker. No time makes a
# flow run twice, since that worker finds no pending run. A long one spares needless messages.
VISIBILITY_SECONDS = 86_400


def load_celery() -> Any:
    """Import Celery, which is missing in projects without it, and has no types."""
    return import_module("celery")


def make_celery(heartbeat: Heartbeat, **transport_options: float) -> Any:
    """Return the Celery application, for a sender or a worker.

    Raises SettingsError for the local executor.
    """
    settings, secret = heartbeat.settings, heartbeat.settings.celery_broker_url
    if settings.executor == "local" or secret is None:
        raise SettingsError("heartbeat.executor is local: set it to celery")
    app = load_celery().Celery(PACKAGE, broker=secret.get_secret_value(), set_as_current=False)
    app.conf.update(
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"visibility_timeout": VISIBILITY_SECONDS, **transport_options},
        task_create_missing_queue_type="quorum",
        task_default_queue=PACKAGE,
        task_default_queue_type="quorum",
        task_ignore_result=True,
        # The message stays until the run has ended: if its process dies before it has taken the
        # run, another one does.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_concurrency=settings.workers,
        worker_enable_remote_control=False,
        worker_prefetch_multiplier=1,
    )
    return app


class Sender:
    """Sends one batch at a time. While the broker hangs, later ones are given up."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self.heartbeat = heartbeat
        # RabbitMQ confirms each message when its queue has stored it: the process may end then.
        limits = dict.fromkeys(SEND_LIMITS, SEND_SECONDS)
        self.app = make_celery(heartbeat, confirm_publish=True, **limits)
        self.app.conf.broker_connection_timeout = SEND_SECONDS
        self.app.connection_for_write().transport  # noqa: B018 - refuses an URL that cannot be used
        self._free = threading.Lock()
        self._producer: Any = None

    def send(self, runs: Sequence[ClaimedRun]) -> str | None:
        """Send the ids of these runs; return why some may not have been sent, or None."""
        outcome = SimpleQueue[str | None]()
        try:
            threading.Thread(target=self._work, args=(runs, outcome), daemon=True).start()
            return outcome.get(timeout=SEND_SECONDS)
        except (Empty, RuntimeError) as error:  # the latter if the system gives no thread
            return str(error) or f"it has not answered within {SEND_SECONDS:g} s"

    def _work(self, runs: Sequence[ClaimedRun], outcome: SimpleQueue[str | None]) -> None:
        if self._free.acquire(timeout=SEND_SECONDS):  # else the beat no longer waits
            try:
                outcome.put(self._attempt(runs))
            finally:
                self._free.release()

    def _attempt(self, runs: Sequence[ClaimedRun]) -> str | None:
        is_used = self._producer is not None
        try:
            self._send(runs)
        except Exception as error:  # noqa: BLE001 - each transport has errors of its own
            producer, self._producer = self._producer, None
            if producer:
                producer.connection.collect()
            if is_used:  # while it was idle, its connection may have been dropped
                return self._attempt(runs)
            return str(describe_error(error, self.heartbeat.secrets())["error_message"])
        return None

    def _send(self, runs: Sequence[ClaimedRun]) -> None:
        if self._producer is None:
            connection = self.app.connection_for_write()
            connection.connect()
            self._producer = self.app.amqp.Producer(connection, auto_declare=False)
        for run in runs:
            flow = self.heartbeat.flows[run.handler]
            # The run's own process is ended at the timeout. The one that waits for it may need a
            # lease to record the end.
            seconds = flow.timeout and flow.timeout + 2 * self.heartbeat.settings.lease
            options = {"queue": flow.queue, "time_limit": seconds, "producer": self._producer}
            self.app.send_task(TASK, (run.id,), retry=False, **options)
