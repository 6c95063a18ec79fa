"""Servers in processes of their own, started and ended by the test that asks for them."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from data_flows.heartbeat.db import Limits, make_engine

from ..conftest import TOKEN
from . import served

PROJECT = Path(__file__).parents[3]
OPERATOR = "another-token-for-tests-and-nothing-else"
SECONDS = 60
INI = """
[app:main]
use = call:{app}
{settings}

[server:main]
use = egg:data_flows#server
listen = 127.0.0.1:{port}
threads = 8

[loggers]
keys = root, celery

[handlers]
keys = console

[formatters]
keys = plain

[logger_root]
level = INFO
handlers = console

[logger_celery]
level = INFO
handlers =
qualname = celery

[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = plain

[formatter_plain]
format = %(levelname)s %(name)s %(message)s
"""

DATABASE = make_url(os.environ.get("TEST_DATABASE_URL") or "sqlite://").get_backend_name()

if DATABASE == "sqlite":
    # SQLite locks no rows, and has no connection that could be lost.
    collect_ignore = [
        *("test_deadlocks.py", "test_lost_connections.py", "test_row_locks.py"),
        *("test_read_only.py", "test_silence.py", "test_silent_set_up.py"),
    ]
else:
    collect_ignore = ["test_write_lock.py"]

# By name of the broker: its URL, in tests that may use it.
BROKERS = {
    name: url
    for name, variable in (("RabbitMQ", "TEST_AMQP_URL"), ("Redis", "TEST_REDIS_URL"))
    if (url := os.environ.get(variable))
}
if not BROKERS:
    collect_ignore.append("test_celery.py")


@dataclass
class Server:
    """A `pserve` that answers."""

    port: int
    process: subprocess.Popen[bytes]
    log_file: Path

    def beat(self, **headers: str) -> dict[str, Any]:
        """Call the heartbeat; return the reply's JSON, with its status as `status`."""
        return self.call("POST", "", TOKEN, **headers)

    def operate(self, method: str, path: str, **members: Any) -> dict[str, Any]:
        """Call a resource as an operator does, with a JSON body where there are members."""
        return self.call(method, path, OPERATOR, **members)

    def call(self, method: str, path: str, token: str, **more: Any) -> dict[str, Any]:
        """Send a request; return the reply's JSON, with its status as `status`."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        body = json.dumps(more) if method == "PATCH" else None
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            headers |= {} if body else more
            connection.request(method, f"/heartbeat{path}", body, headers)
            response = connection.getresponse()
            reply: dict[str, Any] = json.loads(response.read() or b"{}")
            return {"status": response.status, **reply}
        finally:
            connection.close()

    def log(self) -> str:
        """Return what the process has said so far."""
        return self.log_file.read_text()

    def stop(self) -> None:
        """Let the process stand still, as a suspended machine does; wait until it does."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def go_on(self) -> None:
        """Let it go on as if nothing had happened."""
        self.process.send_signal(signal.SIGCONT)

    def tell(self, number: signal.Signals) -> None:
        """Send the process a signal that it may handle."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End the process as `kill -9` does."""
        self.process.kill()
        self.process.wait(SECONDS)


Serve = Callable[..., list[Server]]
TenAtOnce = Callable[[str, str], tuple[int, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make the folder through which test and flows talk."""
    folder = tmp_path / "reports"
    folder.mkdir()
    return folder


@pytest.fixture
def written(database_url: str) -> Iterator[None]:
    """Make the table that the flows write to; drop it at the end."""
    engine = make_engine(make_url(database_url), limits=Limits(write_lock=10))
    served.metadata.create_all(engine)
    yield
    served.metadata.drop_all(engine)
    engine.dispose()


def write_ini(file: Path, flows: str, folder: Path, url: str, **settings: str) -> int:
    """Write an .ini file for flows of `served.main`; return the port that it names."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    app = {
        "sqlalchemy.url": url.replace("%", "%%"),
        "heartbeat.token": TOKEN,
        "heartbeat.operator_token": OPERATOR,
        "test.folder": str(folder),
        "test.flows": flows,
        **settings,
    }
    given = "\n".join(f"{key} = {value}" for key, value in app.items())
    file.write_text(INI.format(app=f"{served.__name__}:main", settings=given, port=port))
    return port


def environment() -> dict[str, str]:
    """Return this process's environment, with which a child finds the tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HEARTBEAT_")}
    kept.pop("DATABASE_URL", None)
    return {**kept, "PYTHONPATH": str(PROJECT)}


@pytest.fixture
def serve(tmp_path: Path, folder: Path, database_url: str, written: None) -> Iterator[Serve]:
    """Serve the flows of a name: a process for each dict of settings; wait until all answer.

    The setting `sqlalchemy.url` takes a process to the database by another way.
    """
    del written  # it must be there
    servers: list[Server] = []

    def start(flows: str, *settings: dict[str, str]) -> list[Server]:
        for own in settings:
            ini_file = tmp_path / f"server {len(servers)}.ini"
            port = write_ini(ini_file, flows, folder, database_url, **own)
            log_file = ini_file.with_suffix(".log")
            with log_file.open("wb") as output:
                process = subprocess.Popen(  # noqa: S603 - our own file
                    [sys.executable, "-m", "pyramid.scripts.pserve", str(ini_file)],
                    env=environment(),
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            servers.append(Server(port, process, log_file))
        started = servers[-len(settings) :]
        for server in started:
            wait_until_ready(server)
        return started

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def ten_at_once(tmp_path: Path, folder: Path) -> TenAtOnce:
    """Let ten processes do the same at once on a database; return how many failed, and why."""

    def start(what: str, url: str) -> tuple[int, str]:
        ini_file = tmp_path / "crowd.ini"
        write_ini(ini_file, "many", folder, url)
        done = subprocess.run(  # noqa: S603 - our own file
            [sys.executable, "-m", f"{__package__}.crowd", what, str(ini_file)],
            env=environment(),
            capture_output=True,
            check=False,
            text=True,
            timeout=2 * SECONDS,
        )
        return done.returncode, done.stdout + done.stderr

    return start


def wait_until_ready(server: Server) -> None:
    """Wait until the server takes connections."""

    def ready() -> bool:
        assert server.process.poll() is None, f"the server has ended:\n{server.log()}"
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", server.port)) == 0

    wait_until(ready, "the server does not answer")


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait until `condition` holds; fail the test when it takes too long."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


def at_once(*calls: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
    """Make all calls at the same moment, each on a thread; return their results."""
    barrier = threading.Barrier(len(calls), timeout=SECONDS)
    results: list[dict[str, Any]] = []

    def call(function: Callable[[], dict[str, Any]]) -> None:
        barrier.wait()
        results.append(function())

    threads = [threading.Thread(target=call, args=(function,)) for function in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert len(results) == len(calls), "a call failed or did not end"
    return results
