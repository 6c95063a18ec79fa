"""Odd requests to a served project: none is answered 5xx, and each is answered or closed in time.

`make fuzz REQUESTS=10000 SEED=1` sends more of them and prints what came back.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from odd_requests import OddRequests
from test_project import Project, Server, make_project, server_url, user_environment

pytestmark = [pytest.mark.install, pytest.mark.slow]

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "2000"))
SEED = int(os.environ.get("FUZZ_SEED") or secrets.randbelow(1_000_000))
ANSWER_SECONDS = 20
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass
class Outcome:
    """What came back of many requests."""

    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[bytes, bytes]] = field(default_factory=list)
    most_cpu_ms: float = 0.0

    def note(self, request: bytes, reply: bytes | None) -> None:
        """Count a reply; None if there was none in time."""
        status = "unanswered" if reply is None else "closed"
        reply = reply and reply.removeprefix(CONTINUE)
        if reply:
            status = reply.split(b" ", 2)[1][:3].decode() if reply.startswith(b"HTTP/") else "odd"
        self.statuses[status] += 1
        # 501 is for transfer codings that a server does not have (RFC 9112, section 6.1).
        if status in {"unanswered", "odd"} or (status.startswith("5") and status != "501"):
            self.faults.append((request[:400], (reply or b"")[:400]))


def send(port: int, request: bytes) -> bytes | None:
    """Send a request as it stands; give the whole reply, or None if there is none in time."""
    reply = b""
    with socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS) as line:
        try:
            line.sendall(request)
            line.shutdown(socket.SHUT_WR)
            while piece := line.recv(65_536):
                reply += piece
        except TimeoutError:
            return None
        except OSError:  # the server has closed it before it had read all
            pass
    return reply


def cpu_ms(process: int) -> float:
    """Give the time that the threads of a process have spent on a CPU, where Linux tells it."""
    total = 0
    for task in Path(f"/proc/{process}/task").glob("*/schedstat"):
        with suppress(OSError):  # a thread that has ended meanwhile
            total += int(task.read_text().split()[0])
    return total / 1_000_000


def attack(server: Server, requests: OddRequests, count: int) -> Outcome:
    """Send requests one by one."""
    outcome = Outcome()
    for _ in range(count):
        request, before = requests.next(), cpu_ms(server.process.pid)
        outcome.note(request, send(server.port, request))
        outcome.most_cpu_ms = max(outcome.most_cpu_ms, cpu_ms(server.process.pid) - before)
    return outcome


def make(folder: Path, kind: str) -> Project:
    """Make a project with a database of that kind."""
    if kind == "sqlite":
        return make_project(folder, user_environment(folder))
    server = server_url(kind)
    url = f"{server.rpartition('/')[0]}/heartbeat_fuzz_{secrets.token_hex(4)}"
    return make_project(folder, user_environment(folder), kind, DATABASE_URL=url)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mysql"])
def test_odd_requests_are_answered_in_time_and_without_an_error(tmp_path: Path, kind: str) -> None:
    project = make(tmp_path, kind)
    operator = (project.folder / "var" / "operator.token").read_text().strip()
    tokens = (project.token, operator, project.token[:-1])
    try:
        with project.serve("production.ini") as server:
            refused = attack(server, OddRequests(SEED), REQUESTS // 2)
            mixed = attack(server, OddRequests(SEED + 1, tokens), REQUESTS // 2)
            still_works = server.beat(project.token).status
    finally:
        if kind != "sqlite":
            url = project.environment["DATABASE_URL"]
            project.sql(server_url(kind), f"DROP DATABASE {url.rpartition('/')[2]}")

    print(f"{kind}, seed {SEED}: {refused.statuses}, {mixed.statuses}")
    print(f"most CPU of a request without a valid token: {refused.most_cpu_ms:.1f} ms")
    assert refused.faults == []
    assert mixed.faults == []
    assert still_works in {200, 202}
