"""A served project with a database, tokens and a clock of its own, and its callers."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

from conftest import TEMPLATE
from test_project import PATIENCE_SECONDS, Project, Server, any_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SAMPLES = TEMPLATE / "scripts" / "samples"
OPERATOR, SCHEDULER = "the-operators-token-of-ann", "the-schedulers-token"
# Scanned with the flows: a file then says how many hours the clock of the server is ahead.
CLOCK = '''"""The clock, ahead by what a file says."""

import os
from datetime import datetime, timedelta
from pathlib import Path

from ..heartbeat.clock import Clock

now = Clock.now


def later(clock: Clock) -> datetime:
    """Return the time of the test."""
    return now(clock) + timedelta(hours=float(Path(os.environ["HOURS_AHEAD"]).read_text()))


Clock.now = later
'''


@dataclass(frozen=True)
class Site:
    """A served project."""

    project: Project
    folder: Path
    server: Server
    environment: dict[str, str]

    @property
    def url(self) -> str:
        """The beginning of its URLs."""
        return f"http://127.0.0.1:{self.server.port}"

    def set_hours_ahead(self, hours: float) -> None:
        """Move the clock of the server."""
        (self.folder / "hours").write_text(str(hours))

    def heartbeat(self, *words: str) -> str:
        """Run the command `heartbeat` with the settings of this site; return its output."""
        return self.project.done(".venv/bin/heartbeat", *words, **self.environment)

    def beat(self) -> dict[str, Any]:
        """Beat until all due flows have run."""
        headers = {"Authorization": f"Bearer {SCHEDULER}", "Prefer": "wait=300"}
        status, reply = self.call("POST", "/heartbeat", **headers)
        assert status == 200, reply
        return dict(reply)

    def operate(self, method: str, path: str, **members: object) -> Any:  # noqa: ANN401 - JSON
        """Call a JSON resource with the operator's token; it must not refuse the call."""
        headers = {"Authorization": f"Bearer {OPERATOR}", "Content-Type": "application/json"}
        body = json.dumps(members) if members else ""
        status, reply = self.call(method, f"/heartbeat{path}", body, **headers)
        assert status < 400, reply
        return reply

    def call(self, method: str, path: str, body: str = "", **headers: str) -> tuple[int, Any]:
        """Call a resource; return the status and the JSON of the reply."""
        line = HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE_SECONDS)
        with closing(line):
            line.request(method, path, body or None, headers)
            answer = line.getresponse()
            return answer.status, json.loads(answer.read() or "null")


def prepare(project: Project) -> None:
    """Add the sample flows and the clock of the tests to a project."""
    flows = project.package / "flows"
    (flows / "shops.py").write_text((SAMPLES / "flows.py").read_text())
    (flows / "clock.py").write_text(CLOCK)


def settings_of(folder: Path) -> dict[str, str]:
    """Return the environment of a site whose files are in a folder."""
    return {
        "DATABASE_URL": f"sqlite:///{folder}/site.sqlite",
        "HEARTBEAT_TOKEN_FILE": str(folder / "beat.token"),
        "HEARTBEAT_OPERATOR_TOKEN_FILE": str(folder / "operator.token"),
        "HEARTBEAT_CONFIG": "production.ini",
        "HOURS_AHEAD": str(folder / "hours"),
    }


def make_database(project: Project, folder: Path, flows: int | None = None) -> Path:
    """Make a migrated database in a folder, with a history of so many flows; return the file."""
    folder.mkdir()
    (folder / "hours").write_text("0")
    environment = settings_of(folder)
    project.done(".venv/bin/heartbeat", "migrate", **environment)
    if flows is not None:
        script = str(SAMPLES / "history.py")
        words = (".venv/bin/python", script, environment["DATABASE_URL"], str(flows))
        project.done(*words, **environment)
    return folder / "site.sqlite"


@contextmanager
def serve(project: Project, folder: Path, database: Path) -> Iterator[Site]:
    """Serve a project from a folder of its own, with a copy of a database."""
    folder.mkdir()
    (folder / "hours").write_text("0")
    (folder / "operator.token").write_text(f"{OPERATOR} ann\n")
    (folder / "beat.token").write_text(f"{SCHEDULER}\n")
    with closing(sqlite3.connect(database)) as old, closing(connect(folder)) as new:
        old.backup(new)
    ini = folder / "production.ini"
    ini.write_text(any_port((project.folder / ini.name).read_text()))
    environment = settings_of(folder)
    command = [".venv/bin/pserve", str(ini)]
    server = Server(command, project.folder, project.environment | environment)
    try:
        yield Site(project, folder, server, environment)
    finally:
        server.stop()


def connect(folder: Path) -> sqlite3.Connection:
    """Open the database in a folder of a site."""
    return sqlite3.connect(folder / "site.sqlite")
