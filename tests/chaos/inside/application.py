"""The application that chaos beats: the engine, and flows that leave traces of what they did.

It is served by the rendered project's Python, which has what the template's own has not. Flows of
all kinds but one write rows of their own through `run.session`. Once a flow has done all its work
it says so in a file, outside of any transaction, so that work whose commit was refused is known.
"""

import faulthandler
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data_flows.heartbeat import Run
from data_flows.heartbeat.db.types import UTCDateTime
from data_flows.heartbeat.executors.local import Job, LocalExecutor
from data_flows.heartbeat.run import ClaimedRun
from data_flows.heartbeat.runs.successes import Gathering, Success
from pyramid.config import Configurator
from sqlalchemy import Column, Integer, MetaData, String, Table, bindparam, func, insert, select
from sqlalchemy import text as plain_sql

MANY = 200
READS = 30
# No flow waits longer for the test that holds it.
HELD_SECONDS = 120

# One of so many runs ends its process at each of the moments that `plant_kills` names.
ONE_OF = 150

Work = Callable[[Run], int]

metadata = MetaData()
# Nothing is unique here, so that what runs twice is seen twice.
WRITTEN = Table(
    "written_by_chaos",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", Integer, nullable=False),
    Column("flow_name", String(50), nullable=False),
    Column("slot", UTCDateTime, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("part", String(20), nullable=False),
    Column("begun_at", UTCDateTime, nullable=False),
    Column("written_at", UTCDateTime, nullable=False),
)
BY_HAND = plain_sql(
    "INSERT INTO written_by_chaos (run_id, flow_name, slot, attempt, part, begun_at, written_at)"
    " VALUES (:run_id, :flow_name, :slot, :attempt, :part, :begun_at, :written_at)"
).bindparams(*(bindparam(name, type_=UTCDateTime) for name in ("slot", "begun_at", "written_at")))


class PlannedError(Exception):
    """What a flow raises that is meant to fail."""


class Pen:
    """Writes the rows of one run, and counts them."""

    def __init__(self, run: Run) -> None:
        """Note when the run began."""
        self.run = run
        self.begun_at = datetime.now(UTC)
        self.count = 0

    def row(self, part: str) -> dict[str, Any]:
        """Give the values of a row."""
        return {
            "run_id": self.run.id,
            "flow_name": self.run.flow_name,
            "slot": self.run.scheduled_for,
            "attempt": self.run.attempt,
            "part": part,
            "begun_at": self.begun_at,
            "written_at": datetime.now(UTC),
        }

    def write(self, part: str) -> None:
        """Insert a row."""
        self.run.session.execute(insert(WRITTEN).values(**self.row(part)))
        self.count += 1


def work_for(run: Run, least: float, most: float) -> None:
    """Take some time, each run its own."""
    time.sleep(random.Random(run.id).uniform(least, most))  # noqa: S311 - no secret


def quick(run: Run) -> int:
    """Write at once."""
    pen = Pen(run)
    pen.write("only")
    return pen.count


def slow(run: Run) -> int:
    """Write after some time."""
    pen = Pen(run)
    work_for(run, 0.1, 2.0)
    pen.write("late")
    return pen.count


def lasting(run: Run) -> int:
    """Write, take some time, and write again: on SQLite nobody else can write meanwhile."""
    pen = Pen(run)
    pen.write("first")
    work_for(run, 0.1, 0.8)
    pen.write("last")
    return pen.count


def reading(run: Run) -> int:
    """Read a lot, and write in the end."""
    pen = Pen(run)
    for _ in range(READS):
        rows = select(func.count(), func.max(WRITTEN.c.written_at))
        run.session.execute(rows.where(WRITTEN.c.flow_name == run.flow_name)).all()
    pen.write("only")
    return pen.count


def failing(run: Run) -> int:
    """Write, and raise."""
    pen = Pen(run)
    pen.write("never")
    work_for(run, 0.0, 0.3)
    raise PlannedError(run.flow_name)


def by_hand(run: Run) -> int:
    """Write by text SQL alone."""
    pen = Pen(run)
    for part in ("first", "last"):
        run.session.execute(BY_HAND, pen.row(part))
        pen.count += 1
    return pen.count


def nested(run: Run) -> int:
    """Write in savepoints, one of which is undone."""
    pen = Pen(run)
    with run.session.begin_nested():
        pen.write("first")
    with run.session.begin_nested() as savepoint:
        run.session.execute(insert(WRITTEN).values(**pen.row("undone")))
        savepoint.rollback()
    pen.write("last")
    return pen.count


def elsewhere(run: Run) -> int:
    """Take some time, and never use the session."""
    work_for(run, 0.0, 1.0)
    return 0


def at_once(_run: Run) -> int:
    """Do nothing at all: such runs are claimed ahead, and recorded together."""
    return 0


def hold(folder: Path, *, writes_first: bool) -> Work:
    """Make a flow that says that it is inside, waits until it is let go, and writes."""

    def held(run: Run) -> int:
        pen = Pen(run)
        if writes_first:
            pen.write("first")
        (folder / "inside").write_text(f"{os.getpid()} {run.id}")
        deadline = time.monotonic() + HELD_SECONDS
        while not (folder / "let go").exists():
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.02)
        pen.write("last")
        return pen.count

    return held


def saying_so(work: Work, folder: Path) -> Callable[[Run], dict[str, int]]:
    """Let a flow say that it has done all its work, whatever becomes of it; return its rows."""

    def function(run: Run) -> dict[str, int]:
        rows = work(run)
        # One write at the end of the file: lines of several processes do not mix.
        line = f"{run.id} {os.getpid()} {threading.get_ident()}\n".encode()
        file = os.open(folder / "done", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line)
        finally:
            os.close(file)
        return {"rows": rows}

    return function


def mixture() -> list[tuple[Work, int, str]]:
    """Give the flows of the long beating: what they do, every how many seconds, and on_lost."""
    return [
        *[(quick, 1, "fail")] * 3,
        (quick, 1, "retry"),
        *[(slow, seconds, "fail") for seconds in (1, 3, 5)],
        *[(slow, seconds, "retry") for seconds in (1, 2, 4)],
        *[(lasting, seconds, "fail") for seconds in (3, 5)],
        (lasting, 4, "retry"),
        *[(reading, seconds, "fail") for seconds in (2, 4)],
        (failing, 2, "fail"),
        (failing, 3, "retry"),
        (by_hand, 2, "fail"),
        (nested, 3, "retry"),
        *[(elsewhere, seconds, "fail") for seconds in (1, 2)],
        (elsewhere, 3, "retry"),
        *[(at_once, 1, on_lost) for on_lost in ("fail", "retry") * 3],
    ]


def kill_sometimes(moment: str, folder: Path) -> None:
    """Kill this process, and note it before, unless all is to be calm."""
    if random.random() < 1 / ONE_OF and not (folder / "calm").exists():  # noqa: S311 - no secret
        line = f"{os.getpid()} {datetime.now(UTC).isoformat()} {moment}\n".encode()
        file = os.open(folder / "own kills", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, line)
        os.kill(os.getpid(), signal.SIGKILL)


def plant_kills(folder: Path) -> None:
    """Kill the process between a claim and the begin, and between the end and its record."""
    start, add = LocalExecutor.start, Gathering.add

    def started(self: LocalExecutor, job: Job, run: ClaimedRun) -> None:
        kill_sometimes("claim", folder)
        start(self, job, run)

    def added(self: Gathering, success: Success) -> bool:
        is_kept: bool = add(self, success)
        if is_kept:
            kill_sometimes("record", folder)
        return is_kept

    LocalExecutor.start = started
    Gathering.add = added


def main(_global_config: dict[str, str], **settings: str) -> Any:  # noqa: ANN401 - no types there
    """Return the application with the flows that the setting `chaos.flows` names."""
    faulthandler.register(signal.SIGUSR2)
    folder = Path(settings["chaos.folder"])
    first, after = hold(folder, writes_first=True), hold(folder, writes_first=False)
    flows: dict[str, list[tuple[Work, int, str]]] = {
        "mixture": mixture(),
        "many": [(quick, 86_400, "fail")] * MANY,
        "hold fail": [(first, 1, "fail")],
        "hold retry": [(first, 1, "retry")],
        "hold unwritten": [(after, 1, "retry")],
    }
    if settings["chaos.flows"] == "mixture":
        plant_kills(folder)
    queue = {"queue": settings["chaos.queue"]} if "chaos.queue" in settings else {}
    with Configurator(settings=settings) as config:
        config.include("data_flows.heartbeat")
        for number, (work, seconds, on_lost) in enumerate(flows[settings["chaos.flows"]], 1):
            kind = work.__name__
            config.add_flow(
                saying_so(work, folder),
                name=f"{number:03} {kind}",
                every=seconds,
                on_lost=on_lost,
                # For the audit, which knows nothing but the database.
                configuration={"kind": kind, "on_lost": on_lost},
                **queue,
            )
        return config.make_wsgi_app()
