"""Celery 5: beat and a worker with its processes, results in the database.

The broker is Redis, unless BENCH_BROKER names another.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import celery.beat
import sqlalchemy as sa
from celery import Celery
from celery.schedules import schedule as every

from benchmarks.databases import REDIS_URL

from . import DATABASE, VARIANT, WORKERS, tables, tasks

if TYPE_CHECKING:
    from collections.abc import Iterator

BROKER = os.environ.get("BENCH_BROKER", REDIS_URL)
app = Celery("bench", broker=BROKER, backend=f"db+{DATABASE}")
app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)
RESULTS = "celery_taskmeta"

noop = app.task(tasks.noop, name="noop")
trace = app.task(tasks.trace, name="trace")
linger = app.task(tasks.linger, name="linger")


@app.task(name="insert")
def insert(name: str) -> None:
    """Insert one row, and commit."""
    with engine_of_process().begin() as connection:
        connection.execute(sa.insert(tables.INSERTED).values(flow=name))


@cache
def engine_of_process() -> sa.Engine:
    """Return an engine that keeps its connection, made by the process that uses it."""
    return sa.create_engine(DATABASE)


def entries(task: str, count: int, *, due: bool = True) -> dict[str, Any]:
    """Return a schedule of so many daily tasks, each due now or tomorrow."""
    last = datetime.now(UTC) - timedelta(days=2 if due else 0)
    day = every(timedelta(days=1), app=app)
    return {
        f"{task}-{number}": celery.beat.ScheduleEntry(
            name=f"{task}-{number}",
            task=task,
            last_run_at=last,
            schedule=day,
            args=() if task == "noop" else (f"{task}-{number}",),
            app=app,
        )
        for number in range(count)
    }


# A beat is a process of its own, which imports this module: these variables name its tasks.
if os.environ.get("BENCH_TASK"):
    app.conf.beat_schedule = entries(os.environ["BENCH_TASK"], int(os.environ["BENCH_COUNT"]))


def prepare() -> None:
    """Create the table of results, and that of the rows that tasks insert."""
    app.backend.ResultSession().close()
    tables.INSERTED.create(sa.create_engine(DATABASE))


def command(*arguments: str) -> list[str]:
    """Return a command of Celery."""
    return [sys.executable, "-m", "celery", "-A", "benchmarks.peers.celery5", *arguments]


def worker_command() -> list[str]:
    """Return the command of a worker."""
    return command("worker", "--concurrency", str(WORKERS), "--loglevel", "WARNING")


@contextmanager
def worker() -> Iterator[None]:
    """Start a worker, and wait until it has done a task."""
    process = subprocess.Popen(worker_command(), stdout=sys.stderr)
    try:
        apply(WORKERS)
        tasks.wait_for(recorded, WORKERS)
        yield
    finally:
        process.terminate()
        process.wait()


def apply(count: int) -> None:
    """Send tasks, as an application does."""
    for _ in range(count):
        noop.apply_async()


class Beat(celery.beat.Scheduler):
    """Beat's own scheduler, with a schedule in memory instead of a file."""

    due = True
    rows = 0

    def setup_schedule(self) -> None:
        """Set the entries."""
        self.data = entries("noop", self.rows, due=self.due)


def make_beat(rows: int, *, due: bool) -> Any:
    """Create a beat with so many entries."""
    Beat.rows, Beat.due = rows, due
    beat = Beat(app, lazy=True)
    beat.setup_schedule()
    return beat


def recorded() -> int:
    """Return the number of results."""
    with engine().connect() as connection:
        count = connection.exec_driver_sql(f"SELECT count(*) FROM {RESULTS}")
        return int(count.scalar_one())


def engine() -> sa.Engine:
    """Connect to the database of the results."""
    return sa.create_engine(DATABASE, poolclass=sa.StaticPool)


def apply_inserts(count: int) -> None:
    """Send tasks that insert a row, as an application does."""
    for number in range(count):
        insert.apply_async((f"flow-{number}",))


def send(beat: Any, count: int) -> None:
    """Send so many tasks, by a beat if there is one."""
    if beat is None:
        apply(count)
        return
    for _ in range(count):
        beat.tick()


def throughput(count: int) -> float:
    """Send all tasks, until their results are in the database."""
    with worker():
        beat = make_beat(count, due=True) if VARIANT == "beat" else None
        return seconds_until_recorded(count, lambda: send(beat, count))


def inserting(count: int) -> float:
    """Send all tasks, each of which inserts a row, until their results are in the database."""
    with worker():
        apply_inserts(WORKERS)  # each process opens its connection
        tasks.wait_for(recorded, 2 * WORKERS)
        seconds = seconds_until_recorded(count, lambda: apply_inserts(count))
    tables.check_inserted(count + WORKERS)
    return seconds


def seconds_until_recorded(count: int, send_all: Callable[[], None]) -> float:
    """Call a function that sends so many tasks; return the seconds until all have results."""
    look = engine().connect()
    counted = sa.text(f"SELECT count(*) FROM {RESULTS}")
    before = recorded()
    began = time.perf_counter()
    send_all()
    tasks.wait_for(lambda: look.execute(counted).scalar_one(), before + count)
    return time.perf_counter() - began


def one(times: int) -> list[float]:
    """Send a single task, until its result is in the database."""
    look = engine().connect()
    counted = sa.text(f"SELECT count(*) FROM {RESULTS}")
    taken = []
    with worker():
        before = recorded()
        for number in range(times):
            beat = make_beat(1, due=True) if VARIANT == "beat" else None
            began = time.perf_counter()
            send(beat, 1)
            wanted = before + number + 1
            tasks.wait_for(lambda: look.execute(counted).scalar_one(), wanted, 0.0002)
            taken.append(tasks.milliseconds(began))
    return taken


def load(rows: int) -> None:
    """Create a schedule, which a beat keeps in memory."""
    global loaded  # noqa: PLW0603 - the next function uses it
    loaded = make_beat(rows, due=False)
    loaded.tick()


loaded: Any = None


def tick(times: int) -> list[float]:
    """Check the schedule, as beat does at every tick."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        loaded.tick()
        taken.append(tasks.milliseconds(began))
    return taken


def schedule(task: str, count: int) -> None:
    """Send tasks, unless `work` starts a beat that sends them."""
    if VARIANT != "beat":
        for number in range(count):
            app.send_task(task, [f"{task}-{number}"])


def work() -> None:
    """Run a worker, and a beat if the variant has one."""
    processes = [subprocess.Popen(worker_command())]
    if VARIANT == "beat" and os.environ.get("BENCH_TASK"):
        file = f"{tempfile.mkdtemp()}/schedule"
        processes.append(subprocess.Popen(command("beat", "--schedule", file)))
    for process in processes:
        process.wait()


def fate() -> str:
    """Look for a record of the task."""
    return "there is a record" if recorded() else "lost, no record"
