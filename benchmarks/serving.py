"""A server of this run: `pserve` on a free port, and a client that keeps its connection."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
import uuid
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

READY_SECONDS = 60.0
LOOK_SECONDS = 0.005
REPLY_SECONDS = 3600
# waitress closes what was not used for two minutes.
IDLE_SECONDS = 60.0


@dataclass
class Server:
    """A process that serves."""

    process: subprocess.Popen[bytes]
    port: int
    log_file: Path
    connection: HTTPConnection
    used_at: float = 0.0

    @property
    def log(self) -> str:
        """The end of what it has said."""
        return self.log_file.read_text(errors="replace")[-2000:]

    @property
    def peak_memory(self) -> float:
        """The most memory that it has had, in MiB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        peak = next(line for line in lines if line.startswith("VmHWM:"))
        return int(peak.split()[1]) / 1024

    def request(
        self, method: str, path: str, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Send a request over the one connection; give the status and the body."""
        self.connection.request(method, path, headers=headers or {})
        reply = self.connection.getresponse()
        body = reply.read()
        self.used_at = time.monotonic()
        return reply.status, body

    def reconnect(self) -> None:
        """Connect anew where waitress would close the connection soon, since it was not used."""
        if time.monotonic() - self.used_at > IDLE_SECONDS:
            self.connection.close()
            self.request("GET", "/")

    def time(self, path: str) -> float:
        """Get a page; give how many seconds it took."""
        self.reconnect()
        began = time.perf_counter()
        status, body = self.request("GET", path)
        seconds = time.perf_counter() - began
        if status != 200:  # noqa: PLR2004 - OK
            raise RuntimeError(f"{path} was answered with {status}: {body.decode()}\n{self.log}")
        return seconds

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait()


@contextmanager
def serve(pserve: str, folder: Path, ini: str, environment: dict[str, str]) -> Iterator[Server]:
    """Serve an .ini file's application from a folder, on a free port; end the server after."""
    server = start(pserve, folder, ini, environment)
    try:
        wait_until_ready(server)
        yield server
    finally:
        server.connection.close()
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            try:
                server.process.wait(timeout=READY_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()


def start(pserve: str, folder: Path, ini: str, environment: dict[str, str]) -> Server:
    """Start a server, which may not listen yet."""
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = int(probe.getsockname()[1])
    name = f"bench-{uuid.uuid4().hex[:8]}"
    file, log_file = folder / f"{name}.ini", folder / f"{name}.log"
    file.write_text(ini.replace("localhost:6543", f"127.0.0.1:{port}"))
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [pserve, file.name], cwd=folder, env=environment, stdout=log, stderr=log
        )
    connection = HTTPConnection("127.0.0.1", port, timeout=REPLY_SECONDS)
    return Server(process, port, log_file, connection)


def wait_until_ready(server: Server, path: str = "/") -> None:
    """Return when a page is answered."""
    deadline = time.monotonic() + READY_SECONDS
    while server.process.poll() is None and time.monotonic() < deadline:
        try:
            server.request("GET", path)
        except (OSError, HTTPException):
            server.connection.close()
            time.sleep(LOOK_SECONDS)
        else:
            return
    server.kill()
    raise RuntimeError(f"a server does not answer:\n{server.log}")
