"""Workers of Celery in processes of their own, and the broker that they share with a server."""

import os
import signal
import subprocess
import sys
import uuid
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .conftest import SECONDS, environment, wait_until

celery: Any = import_module("celery")  # they have no types
kombu: Any = import_module("kombu")
TASK = "data_flows.heartbeat.run"
WORKER = "data_flows.heartbeat.optional.celery.worker"


@dataclass
class Broker:
    """A broker, and a queue on it for one test alone."""

    url: str
    queue: str

    @classmethod
    def at(cls, url: str) -> "Broker":
        """Return the broker at a URL, with a new queue."""
        return cls(url, f"test-{uuid.uuid4()}")

    @property
    def settings(self) -> dict[str, str]:
        """The settings of an application that hands its runs to the queue."""
        return {
            "heartbeat.executor": "celery",
            "heartbeat.celery_broker_url": self.url,
            "test.queue": self.queue,
        }

    def url_at(self, port: int) -> str:
        """Return the URL of a broker of this kind at another port."""
        return urlsplit(self.url)._replace(netloc=f"127.0.0.1:{port}").geturl()

    def send(self, *runs: int) -> None:
        """Send the ids of runs, as a beat does."""
        app = celery.Celery(broker=self.url, set_as_current=False)
        # RabbitMQ may lose what it has not confirmed when the connection is closed.
        app.conf.broker_transport_options = {"confirm_publish": True}
        queue = kombu.Queue(self.queue, queue_arguments={"x-queue-type": "quorum"})
        with app.connection_for_write() as connection:
            producer = app.amqp.Producer(connection)
            for run in runs:
                app.send_task(TASK, (run,), queue=queue, producer=producer)

    def empty(self) -> None:
        """Lose all messages."""
        with kombu.Connection(self.url) as connection:
            connection.channel().queue_purge(self.queue)

    def remove(self) -> None:
        """Remove the queue."""
        with kombu.Connection(self.url) as connection:
            channel = connection.channel()
            channel.queue_delete(self.queue)
            if connection.transport.driver_type == "redis":  # what kombu leaves
                channel.client.delete(*channel.client.keys(f"_kombu.binding*.{self.queue}") or "-")


@dataclass
class Worker:
    """A worker that takes messages."""

    process: subprocess.Popen[bytes]
    log_file: Path

    @classmethod
    def start(cls, ini_file: Path, log_file: Path, queue: str, *options: str) -> "Worker":
        """Start a worker with the settings of an .ini file; wait until it is ready."""
        command = [sys.executable, "-m", "celery", "-A", WORKER, "worker", "-Q", queue]
        with log_file.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own file
                [*command, "-n", f"{uuid.uuid4()}@%h", *(options or ("-c", "2"))],
                env={**environment(), "HEARTBEAT_CONFIG": str(ini_file)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        worker = cls(process, log_file)

        def is_ready() -> bool:
            assert process.poll() is None, f"the worker has ended:\n{worker.log()}"
            return " serves " in worker.log()

        wait_until(is_ready, "the worker is not ready")
        return worker

    @classmethod
    def refused(cls, ini_file: Path) -> str:
        """Start a worker that cannot start; return what it prints."""
        done = subprocess.run(  # noqa: S603 - our own file
            [sys.executable, "-m", "celery", "-A", WORKER, "worker"],
            env={**environment(), "HEARTBEAT_CONFIG": str(ini_file)},
            capture_output=True,
            check=False,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 1, done.stdout + done.stderr
        return done.stdout + done.stderr

    def log(self) -> str:
        """Return what the process has logged so far."""
        return self.log_file.read_text()

    def children(self) -> list[int]:
        """Return the ids of its child processes."""
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(child) for child in task.read_text().split()]

    def tell_all(self, number: signal.Signals) -> None:
        """Send a signal to the process and its children, as a service manager may."""
        for pid in (*self.children(), self.process.pid):
            os.kill(pid, number)

    def kill(self) -> None:
        """End the process as `kill -9` does, and its children."""
        children = self.children() if self.process.poll() is None else []
        self.process.kill()
        self.process.wait(SECONDS)
        wait_until(lambda: not any(map(_is_alive, children)), "a child process lives on")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
