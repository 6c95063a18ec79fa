"""The rendered project: installed, served as in production, and called over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from .databases import allow_recursion, numbers, settle
from .serving import Server, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

TEMPLATE = Path(__file__).resolve().parent.parent
TOOLS = TEMPLATE / ".venv" / "bin"
DRIVERS = ("psycopg[binary]", "pymysql[rsa]")
CELERY = "celery[redis]>=5.7"
TOKEN = "the-token-of-the-benchmarks"  # noqa: S105 - valid for the servers of this run alone
OPERATOR_TOKEN = "the-operator-token-of-the-benchmarks"  # noqa: S105 - as above
WORKERS = 8
# The handlers of the flows; many rows share one of them.
FLOWS = '''"""Flows that the benchmarks run."""

import os
import time

import sqlalchemy as sa

from ..heartbeat import Run, flow

ROWS = sa.table("bench_rows", sa.column("flow"))


def leave_trace(name: str) -> None:
    """Record a call of this flow outside of any transaction."""
    traces = os.open(os.environ["BENCH_TRACES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(traces, f"{name}\\n".encode())
    os.close(traces)


@flow(every="1d", start="next")
def noop(run: Run) -> None:
    """Do nothing."""


@flow(every="1d", start="next")
def inserting(run: Run) -> None:
    """Insert one row in the transaction of the run."""
    run.session.execute(sa.insert(ROWS).values(flow=run.flow_name))


@flow(every="1d", start="next")
def waiting(run: Run) -> None:
    """Wait as a flow does that queries another system."""
    leave_trace(run.flow_name)
    time.sleep(0.01)


@flow(every="1d", start="next")
def slow(run: Run) -> None:
    """Wait for seconds."""
    time.sleep(5)


@flow(every="1d", start="next")
def lingering(run: Run) -> None:
    """Run for long enough to be killed."""
    leave_trace(run.flow_name)
    time.sleep(600)
'''

FLOW_COLUMNS = sa.table(
    "data_flows",
    sa.column("id", sa.BigInteger),
    sa.column("name", sa.String),
    sa.column("handler", sa.String),
    sa.column("enabled", sa.Boolean),
    sa.column("configuration", sa.JSON),
    sa.column("on_lost", sa.String),
    sa.column("retries", sa.Integer),
    sa.column("retry_delay", sa.Integer),
    sa.column("run_interval", sa.Integer),
    sa.column("next_run_at", sa.DateTime(timezone=True)),
    sa.column("last_slot_at", sa.DateTime(timezone=True)),
    sa.column("window_starts_at", sa.DateTime(timezone=True)),
    sa.column("created_at", sa.DateTime(timezone=True)),
    sa.column("updated_at", sa.DateTime(timezone=True)),
)
RUN_COLUMNS = sa.table(
    "data_flow_runs",
    sa.column("id", sa.BigInteger),
    sa.column("data_flow_id", sa.BigInteger),
    sa.column("status", sa.String),
    sa.column("trigger", sa.String),
    sa.column("scheduled_for", sa.DateTime(timezone=True)),
    sa.column("claim_id", sa.String),
    sa.column("worker", sa.String),
    sa.column("window_start", sa.DateTime(timezone=True)),
    sa.column("window_end", sa.DateTime(timezone=True)),
    sa.column("started_at", sa.DateTime(timezone=True)),
    sa.column("ended_at", sa.DateTime(timezone=True)),
    sa.column("duration", sa.Double),
    sa.column("error_type", sa.String),
    sa.column("log", sa.Text),
    sa.column("created_at", sa.DateTime(timezone=True)),
    sa.column("updated_at", sa.DateTime(timezone=True)),
)
# The rows that the handler `inserting` inserts.
ROWS = sa.Table(
    "bench_rows",
    sa.MetaData(),
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("flow", sa.String(200), nullable=False),
)
OURS = "bench-"


@dataclass(frozen=True)
class Project:
    """A rendered project that is installed."""

    folder: Path

    def command(self, name: str) -> str:
        """Return the path of a command of its environment."""
        return str(self.folder / ".venv" / "bin" / name)

    @contextmanager
    def served(
        self, url: str, *, traces: str | Path = os.devnull, **settings: object
    ) -> Iterator[Server]:
        """Serve it on a migrated database, with settings such as `lease=3`."""
        environment = self.environment(url, traces=traces, **settings)
        ini = (self.folder / "production.ini").read_text()
        with serve(self.command("pserve"), self.folder, ini, environment) as server:
            yield server

    def environment(
        self, url: str, *, traces: str | Path = os.devnull, **settings: object
    ) -> dict[str, str]:
        """Return the environment of its processes, with settings such as `lease=3`."""
        environment = {f"HEARTBEAT_{name.upper()}": str(value) for name, value in settings.items()}
        environment |= {"DATABASE_URL": url, "BENCH_TRACES": str(traces)}
        environment |= {"HEARTBEAT_TOKEN": TOKEN, "HEARTBEAT_OPERATOR_TOKEN": OPERATOR_TOKEN}
        environment.setdefault("HEARTBEAT_WORKERS", str(WORKERS))
        environment.setdefault("HEARTBEAT_WAIT", "3600")
        return clean() | environment

    def migrate(self, url: str) -> sa.Engine:
        """Create the tables; return an engine on them."""
        subprocess.run(
            [self.command("heartbeat"), "migrate", "-c", "production.ini"],
            cwd=self.folder,
            env=clean() | {"DATABASE_URL": url},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        engine = sa.create_engine(url)
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", lambda c, _: c.execute("PRAGMA busy_timeout=60000"))
        ROWS.create(engine)
        return engine


def clean() -> dict[str, str]:
    """Return this process's environment without variables that change how a project behaves."""
    ours = ("HEARTBEAT_", "DATABASE_URL", "PYTHON", "VIRTUAL_ENV")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return kept | {"PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"}


def render(template: Path, folder: Path, environment: dict[str, str]) -> None:
    """Render a template with its defaults into a folder; its hooks run in that environment."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "cookiecutter.yaml"
    config.write_text(f"replay_dir: {folder}/replay\ncookiecutters_dir: {folder}/cookiecutters\n")
    options = ["--no-input", "--config-file", str(config), "--output-dir", str(folder)]
    subprocess.run(
        [str(TOOLS / "cookiecutter"), *options, str(template)],
        env=environment,
        stdout=subprocess.DEVNULL,
        check=True,
    )


def make_environment(folder: Path, *packages: str) -> None:
    """Create `folder`/.venv with packages, by uv."""
    uv = str(TOOLS / "uv")
    for command in (
        [uv, "venv", "--quiet", "--no-python-downloads", "-p", sys.executable, ".venv"],
        [uv, "pip", "install", "--quiet", "-p", ".venv/bin/python", *packages],
    ):
        subprocess.run(command, cwd=folder, env=clean(), check=True)


def install(folder: Path) -> Project:
    """Render the project, add the flows of the benchmarks, and install it."""
    render(TEMPLATE, folder, clean() | {"HEARTBEAT_SETUP": "0"})
    rendered = folder / "data_flows"
    (rendered / "src" / "data_flows" / "flows" / "benchmarks.py").write_text(FLOWS)
    (rendered / "src" / "data_flows" / "flows" / "import_csv.py").unlink()
    make_environment(rendered, "-c", "constraints.txt", "-e", ".[production]", *DRIVERS, CELERY)
    return Project(rendered)


def beat(server: Server) -> tuple[float, dict[str, Any]]:
    """Send a beat; return the seconds until its reply, and the reply."""
    server.reconnect()
    began = time.perf_counter()
    status, body = server.request("POST", "/heartbeat", {"Authorization": f"Bearer {TOKEN}"})
    seconds = time.perf_counter() - began
    if status not in {200, 202}:
        raise RuntimeError(f"The reply to a beat is {status}: {body.decode()}\n{server.log}")
    return seconds, json.loads(body)


def load_flows(engine: sa.Engine, count: int, handler: str = "noop") -> None:
    """Insert `count` flows, none of them due."""
    row = numbers(count)
    now = datetime.now(UTC)
    values = {
        "name": sa.literal(OURS) + sa.cast(row.c.i, sa.String(20)),
        "handler": sa.literal(handler),
        "enabled": sa.true(),
        "configuration": sa.literal({}, sa.JSON),
        # The defaults of @flow: a new process would write them to all rows without them.
        "on_lost": sa.literal("fail"),
        "retries": sa.literal(0),
        "retry_delay": sa.literal(60),
        "run_interval": sa.literal(86_400),
        **dict.fromkeys(("created_at", "updated_at"), sa.literal(now)),
        "next_run_at": sa.literal(now + timedelta(days=1), sa.DateTime(timezone=True)),
    }
    with engine.begin() as connection:
        allow_recursion(connection)
        connection.execute(
            sa.insert(FLOW_COLUMNS).from_select(list(values), sa.select(*values.values()))
        )
    settle(engine)


def last_run(engine: sa.Engine) -> int:
    """Return the id of the newest run."""
    with engine.connect() as connection:
        return int(connection.scalar(sa.select(sa.func.max(RUN_COLUMNS.c.id))) or 0)


def make_due(
    engine: sa.Engine, *, after: int = 0, settled: bool = True, first: int | None = None
) -> None:
    """Delete all runs after one, and reset the flows to due, as if they had never run.

    first: only so many of the flows.
    """
    table = FLOW_COLUMNS
    chosen = table.c.name.startswith(OURS)
    if first is not None:
        chosen = table.c.name.in_([f"{OURS}{number}" for number in range(1, first + 1)])
    past = datetime.now(UTC) - timedelta(minutes=1)
    with engine.begin() as connection:
        connection.execute(sa.delete(RUN_COLUMNS).where(RUN_COLUMNS.c.id > after))
        connection.execute(sa.delete(ROWS))
        connection.execute(
            sa.update(table)
            .where(chosen)
            .values(next_run_at=past, last_slot_at=None, window_starts_at=None)
        )
    if settled:
        settle(engine)


def count_runs(engine: sa.Engine, *, after: int = 0) -> dict[str, int]:
    """Return the number of runs by status."""
    table = RUN_COLUMNS
    counted = sa.select(table.c.status, sa.func.count()).where(table.c.id > after)
    with engine.connect() as connection:
        return dict(connection.execute(counted.group_by(table.c.status)).all())


def count_rows(engine: sa.Engine) -> int:
    """Return the number of rows that flows have inserted."""
    with engine.connect() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(ROWS)) or 0)


def run_all_due(server: Server, engine: sa.Engine, count: int, *, after: int = 0) -> float:
    """Send a beat with `count` flows due; return the seconds until all runs are recorded."""
    seconds, reply = beat(server)
    runs = count_runs(engine, after=after)
    if runs != {"success": count}:
        raise RuntimeError(f"{count} flows were due, but the runs are {runs}: {reply}")
    return seconds
