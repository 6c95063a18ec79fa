"""A server whose log lines are read: in production's format, with flows that log and fail."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from pyramid.config import Configurator
from pyramid.router import Router

from data_flows.heartbeat import Run

from ..conftest import TOKEN

PROJECT = Path(__file__).parents[3]
SECONDS = 120
# Where the file `bad` is in this folder, the import fails.
FOLDER = "LOGGED_FOLDER"
INI = """
[app:main]
use = call:{application}
sqlalchemy.url = {url}
heartbeat.token = {token}

[server:main]
use = egg:data_flows#server
listen = 127.0.0.1:{port}
"""

log = logging.getLogger("data_flows.flows.import_csv")


def import_csv(run: Run) -> dict[str, int]:
    """Import a file."""
    log.info("orders.csv has %d rows", 12)
    if Path(os.environ[FOLDER], "bad").exists():
        message = "orders.csv, line 7: 'abc' is not a number"
        raise ValueError(message)
    run.log.info("imported %d rows", 12)
    return {"rows": 12}


def send_report(_run: Run) -> None:
    """Do nothing."""


def application(_global_config: dict[str, str], **settings: Any) -> Router:
    """Make the application of the .ini file."""
    with Configurator(settings=settings) as config:
        config.include("data_flows.heartbeat")
        options = {"retries": 1, "retry_delay": "1m", "pause_after": 2}
        config.add_flow(import_csv, every="1h", **options)
        config.add_flow(send_report, every="1d", start="next")
        app: Router = config.make_wsgi_app()
        return app


class Logged:
    """A server, and the lines that it has logged so far."""

    def __init__(self, port: int, process: subprocess.Popen[str]) -> None:
        self.port, self.process = port, process
        self.lines: list[dict[str, Any]] = []
        # Warnings of Python, or the error that has stopped the start.
        self.others: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                with self._changed:
                    if line.startswith("{"):
                        self.lines.append(json.loads(line))
                    else:
                        self.others.append(line)
                    self._changed.notify_all()

    def wait_for(self, pattern: str, count: int = 1) -> None:
        """Wait until so many lines match a pattern."""

        def is_there() -> bool:
            return sum(bool(re.match(pattern, line["message"])) for line in self.lines) >= count

        with self._changed:
            there = self._changed.wait_for(is_there, SECONDS)
        assert there, (pattern, self.lines, self.others)

    def post(self, token: str = TOKEN) -> int:
        """Beat; return the status of the reply."""
        client = HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        client.request("POST", "/heartbeat", headers={"Authorization": f"Bearer {token}"})
        status = client.getresponse().status
        client.close()
        return status

    def stop(self) -> None:
        """Stop the server as a service manager does, and read its last lines."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(SECONDS)
        self._reader.join(SECONDS)


def write_ini(folder: Path, url: str, port: int = 0) -> Path:
    """Write an .ini file whose logging is that of production.ini; return its path."""
    application = f"{__name__}:application"
    text = INI.format(application=application, url=url.replace("%", "%%"), token=TOKEN, port=port)
    production = (PROJECT / "production.ini").read_text()
    file = folder / "logged.ini"
    file.write_text(text + production[production.index("[loggers]") :])
    return file


def environment(folder: Path) -> dict[str, str]:
    """Return the variables for a process of this application."""
    kept = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    return {**kept, "PYTHONPATH": str(PROJECT), FOLDER: str(folder)}


@contextmanager
def serve(folder: Path, url: str) -> Iterator[Logged]:
    """Serve the application until the end of the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ini = write_ini(folder, url, port)
    process = subprocess.Popen(  # noqa: S603 - our own file
        [sys.executable, "-m", "pyramid.scripts.pserve", str(ini)],
        env=environment(folder),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        server = Logged(port, process)
        server.wait_for("Serving on")
        yield server
    finally:
        process.kill()
        process.wait(SECONDS)
