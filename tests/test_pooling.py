"""The heartbeat behind a proxy that gives each transaction whichever server connection is free."""

import json
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import Child
from test_project import (
    PATIENCE_SECONDS,
    Database,
    Project,
    make_project,
    server_url,
    user_environment,
)
from test_proxies import wait_until_listening

PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
pytestmark = [
    pytest.mark.install,
    pytest.mark.xdist_group("pooling"),
    pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed"),
]

SEVERAL = 6
# A statement that comes for the sixth time is one that the driver would prepare.
OFTEN = 8
FLOWS = '''"""Flows for a server whose default is stricter than what they are promised."""

from sqlalchemy import text

from ..heartbeat import Run, flow


def note(run: Run) -> str:
    """Write a row; return the level at which that is done."""
    run.session.execute(text("INSERT INTO seen VALUES (:name)"), {"name": run.flow_name})
    level: str = run.session.execute(text("SHOW transaction_isolation")).scalar_one()
    return level
'''
FLOW = '''

@flow(every="1s")
def good_%d(run: Run) -> str:
    """Work."""
    return note(run)
'''
BAD = '''

@flow(every="1s")
def bad(run: Run) -> None:
    """Fail."""
    raise LookupError(note(run))
'''


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A project, and an empty database whose transactions are serializable by default."""
    server = server_url("postgresql")
    name = f"heartbeat_pooling_{uuid.uuid4().hex[:8]}"
    url = urlsplit(server)._replace(path=f"/{name}_setup").geturl()
    project = make_project(tmp_path, user_environment(tmp_path), "postgresql", DATABASE_URL=url)
    made = Database(project, name, server)
    made.admin(
        f"CREATE DATABASE {name}",
        f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'",
    )
    project.sql(made.url(name), "CREATE TABLE seen (name text)")
    yield made
    made.admin(*(f"DROP DATABASE {made} WITH (FORCE)" for made in (name, f"{name}_setup")))


@pytest.fixture
def pooled_url(database: Database, tmp_path: Path) -> Iterator[str]:
    """The URL of the database by way of pgbouncer, which has two connections to the server."""
    assert PGBOUNCER is not None
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    server = urlsplit(database.server)
    login = f"host={server.hostname} port={server.port or 5432} user={server.username}"
    if server.password:
        login += f" password={server.password}"
    file = tmp_path / "pgbouncer.ini"
    file.write_text(
        f"[databases]\n* = {login}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        "unix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 2\n"
    )
    command = [PGBOUNCER, str(file)]
    if os.geteuid() == 0:  # as whom it does not run
        command += ["--user", "nobody"]
    with (tmp_path / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until_listening(port)
        yield f"postgresql+psycopg://anybody@127.0.0.1:{port}/{database.name}"
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def test_it_works_behind_a_proxy_that_pools_transactions(
    database: Database, pooled_url: str
) -> None:
    project = database.project
    flows = "".join(FLOW % number for number in range(SEVERAL))
    (project.package / "flows" / "pooled.py").write_text(FLOWS + flows + BAD)
    environment = {"DATABASE_URL": pooled_url}
    migrate = [".venv/bin/heartbeat", "migrate"]
    migrations = [
        Child(migrate, project.folder, project.environment | environment) for _ in range(3)
    ]

    assert [child.finish(PATIENCE_SECONDS).status for child in migrations] == [0, 0, 0]
    checked = project.heartbeat("check", **environment).output
    assert "heartbeat tables at revision" in checked
    assert "your own migrations are applied" in checked
    with project.serve("production.ini", **environment) as server:
        deadline = time.monotonic() + PATIENCE_SECONDS
        statuses = []
        runs: Counter[str] = Counter()
        while min(runs[name] for name in ("bad", "good_0", f"good_{SEVERAL - 1}")) < OFTEN:
            assert time.monotonic() < deadline, server.said
            with ThreadPoolExecutor(3) as callers:
                replies = callers.map(server.beat, [project.token] * 3)
            statuses += [reply.status for reply in replies]
            runs = Counter(run["flow"] for run in history(project, environment))

    assert set(statuses) == {200}, server.said
    ended = {
        (run["flow"].partition("_")[0], run["status"], str(run["result"]), run["error_message"])
        for run in history(project, environment)
    }
    assert ended == {
        ("import", "success", "{'files': 0, 'rows': 0, 'problems': []}", None),
        ("good", "success", "read committed", None),
        ("bad", "failed", "None", "read committed"),
    }
    errors = [line for line in server.lines if '"ERROR"' in line]
    assert all("bad failed in " in line for line in errors)


def history(project: Project, environment: dict[str, str]) -> list[dict[str, Any]]:
    """Give all runs."""
    command = [".venv/bin/heartbeat", "runs", "--json", "--limit", "1000"]
    found: list[dict[str, Any]] = json.loads(project.done(*command, **environment))
    return found
