"""A server of this run: `pserve` on a free port, and a client that keeps its connection."""

from __future__ import annotations

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
# The project's server closes a connection that is idle for 10 seconds (channel_timeout).
IDLE_SECONDS = 5.0


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
        """The end of its log."""
        return self.log_file.read_text(errors="replace")[-2000:]

    @property
    def peak_memory(self) -> float:
        """The peak of its memory, in MiB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        peak = next(line for line in lines if line.startswith("VmHWM:"))
        return int(peak.split()[1]) / 1024

    def request(
        self, method: str, path: str, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Send a request over the one connection; return the status and the body."""
        self.connection.request(method, path, headers=headers or {})
        reply = self.connection.getresponse()
        body = reply.read()
        self.used_at = time.monotonic()
        return reply.status, body

    def get(self, path: str, headers: dict[str, str] | None = None) -> None:
        """Get a page; raise RuntimeError unless the status is 200."""
        status, body = self.request("GET", path, headers)
        if status != 200:  # noqa: PLR2004 - OK
            text = body.decode(errors="replace")[-2000:]
            raise RuntimeError(f"The reply to {path} is {status}: {text}\n{self.log}")

    def reconnect(self) -> None:
        """Connect again if waitress would soon close the idle connection."""
        if time.monotonic() - self.used_at > IDLE_SECONDS:
            self.connection.close()
            self.request("GET", "/")

    def time(self, path: str, headers: dict[str, str] | None = None) -> float:
        """Return how many seconds it takes to get a page."""
        self.reconnect()
        began = time.perf_counter()
        self.get(path, headers)
        return time.perf_counter() - began

    def stop(self) -> None:
        """Stop it by SIGTERM, or kill it if that does not end it."""
        self.connection.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=READY_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait()


@contextmanager
def serve(pserve: str, folder: Path, ini: str, environment: dict[str, str]) -> Iterator[Server]:
    """Serve an .ini file's application from a folder on a free port, and stop it at the end."""
    server = start(pserve, folder, ini, environment)
    try:
        wait_until_ready(server)
        yield server
    finally:
        server.stop()


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


def wait_until_ready(server: Server) -> None:
    """Return when the home page is served; kill the server and raise RuntimeError if it is not."""
    deadline = time.monotonic() + READY_SECONDS
    while server.process.poll() is None and time.monotonic() < deadline:
        try:
            server.get("/")
        except (OSError, HTTPException):
            server.connection.close()
            time.sleep(LOOK_SECONDS)
        except RuntimeError:
            server.kill()
            raise
        else:
            return
    server.kill()
    raise RuntimeError(f"The server does not answer:\n{server.log}")
