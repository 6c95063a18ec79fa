"""A real server at a real socket, for what only bytes on a wire can show.

`serve` starts `pserve` on the application below, in a process of its own with an .ini file, a log
and a database of its own; `Door.send` sends it any bytes and reads what comes back.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from email.parser import BytesParser
from pathlib import Path
from typing import Any

from pyramid.config import Configurator
from pyramid.csrf import CookieCSRFStoragePolicy
from pyramid.response import Response
from pyramid.router import Router
from sqlalchemy import Engine, func, make_url, select

from data_flows.heartbeat import migrations
from data_flows.heartbeat.db import make_engine
from data_flows.heartbeat.models import DataFlowBeat, DataFlowRun
from data_flows.heartbeat.security.policy import HeartbeatSecurityPolicy

PROJECT = Path(__file__).parents[3]
SECONDS = 120
TOKEN = "a-beat-token-of-these-tests-alone"  # noqa: S105 - no secret
OPERATOR_TOKEN = "an-operator-token-of-these-tests"  # noqa: S105 - no secret
INI = """
[app:main]
use = call:{application}
sqlalchemy.url = {url}
heartbeat.token_file = {folder}/beat.token
heartbeat.operator_token_file = {folder}/operator.token
{settings}

[server:main]
use = egg:data_flows#server
listen = 127.0.0.1:{port}
threads = 4
clear_untrusted_proxy_headers = false

[loggers]
keys = root

[handlers]
keys = console

[formatters]
keys = plain

[logger_root]
level = DEBUG
handlers = console

[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = plain

[formatter_plain]
format = %(asctime)s %(levelname)s %(name)s %(message)s
"""


def application(_global_config: dict[str, str], **settings: Any) -> Router:
    """Make an application in the rendered one's shape, with one flow that is always due."""
    with Configurator(settings=settings) as config:
        config.set_security_policy(HeartbeatSecurityPolicy())
        config.set_csrf_storage_policy(CookieCSRFStoragePolicy(httponly=True))
        config.set_default_csrf_options(require_csrf=True)
        config.include("data_flows.heartbeat")
        if "test.no_throttle" in settings:
            config.registry.pop("heartbeat.throttle", None)
        config.add_flow(lambda _run: None, name="always due", every=1)
        config.add_route("form", "/form")
        config.add_view(lambda _request: Response("taken"), route_name="form")
        app: Router = config.make_wsgi_app()
        return app


@dataclass(frozen=True)
class Reply:
    """An answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """Return the body's members."""
        members: dict[str, Any] = json.loads(self.body)
        return members


@dataclass
class Door:
    """A server that answers, its database and its log."""

    port: int
    folder: Path
    engine: Engine
    process: subprocess.Popen[bytes]

    def wait(self) -> None:
        """Wait for the first answer: to a request that is none of the heartbeat's."""
        deadline = time.monotonic() + SECONDS
        while True:
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            try:
                self.send(b"GET / HTTP/1.0\r\n\r\n")
            except ConnectionRefusedError:
                time.sleep(0.02)
            else:
                return

    def connect(self) -> socket.socket:
        """Open a connection on which everything has a deadline."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def send(self, request: bytes) -> Reply:
        """Send bytes; return the reply that the server ended by closing the connection."""
        with closing(self.connect()) as client:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                client.sendall(request)
            return read_reply(client)

    def log(self) -> str:
        """Return what the server has logged."""
        return (self.folder / "log").read_text("utf-8", "replace")

    def counts(self) -> tuple[int, int]:
        """Return how many beats and runs there are."""
        with self.engine.connect() as connection:
            beats, runs = (
                connection.scalar(select(func.count()).select_from(model)) or 0
                for model in (DataFlowBeat, DataFlowRun)
            )
        return beats, runs


def read_reply(client: socket.socket) -> Reply:
    """Read all that the server has to say, until it closes the connection.

    Where it does that without a word, the status is 0.
    """
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(65_536):
            received += piece
    if not received:
        return Reply(0, {}, b"")
    head, _, body = received.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 100 "):
        head, _, body = body.partition(b"\r\n\r\n")
    line, _, fields = head.partition(b"\r\n")
    assert line.startswith(b"HTTP/1."), received[:200]
    headers = BytesParser().parsebytes(fields)
    return Reply(
        int(line.split()[1]), {name.lower(): value for name, value in headers.items()}, body
    )


@contextmanager
def serve(folder: Path, *, throttle: bool = True, **settings: str) -> Iterator[Door]:
    """Serve until the end of the block; settings are the engine's, without their prefix.

    The door that this gives may not answer yet: `wait` for it.
    """
    (folder / "beat.token").write_text(f"{TOKEN} cron\n")
    (folder / "operator.token").write_text(f"{OPERATOR_TOKEN}\n")
    url = f"sqlite:///{folder / 'door.sqlite'}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "door.ini").write_text(
        INI.format(
            application=f"{__name__}:application",
            url=url,
            folder=folder,
            settings="\n".join(
                [f"heartbeat.{key} = {value}" for key, value in settings.items()]
                + ([] if throttle else ["test.no_throttle = true"])
            ),
            port=port,
        )
    )
    engine = make_engine(make_url(url))
    migrations.upgrade(engine)
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("HEARTBEAT_") and key != "DATABASE_URL"
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-m", "pyramid.scripts.pserve", str(folder / "door.ini")],
            env={**environment, "PYTHONPATH": str(PROJECT)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Door(port, folder, engine, process)
    finally:
        process.kill()
        process.wait(SECONDS)
        engine.dispose()
