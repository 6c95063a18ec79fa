"""Celery 5: beat and a worker with 8 processes, Redis as broker, results in the database."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import celery.beat
import sqlalchemy as sa
from celery import Celery
from celery.schedules import schedule as every

from benchmarks.databases import REDIS_URL

from . import DATABASE, VARIANT, WORKERS, tasks

if TYPE_CHECKING:
    from collections.abc import Iterator

app = Celery("bench", broker=REDIS_URL, backend=f"db+{DATABASE}")
app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)
RESULTS = "celery_taskmeta"

noop = app.task(tasks.noop, name="noop")
trace = app.task(tasks.trace, name="trace")
linger = app.task(tasks.linger, name="linger")


def entries(task: str, count: int, *, due: bool = True) -> dict[str, Any]:
    """Make a schedule of so many daily tasks, each due at once or tomorrow."""
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


# A beat is a process of its own, which reads this module: what it schedules is told by these.
if os.environ.get("BENCH_TASK"):
    app.conf.beat_schedule = entries(os.environ["BENCH_TASK"], int(os.environ["BENCH_COUNT"]))


def prepare() -> None:
    """Make the table of results."""
    app.backend.ResultSession().close()


def command(*arguments: str) -> list[str]:
    """Give a command of Celery's."""
    return [sys.executable, "-m", "celery", "-A", "benchmarks.peers.celery5", *arguments]


def worker_command() -> list[str]:
    """Give the command of a worker."""
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
    """Beat's own scheduler, with a schedule made here instead of a file's."""

    due = True
    rows = 0

    def setup_schedule(self) -> None:
        """Take the entries."""
        self.data = entries("noop", self.rows, due=self.due)


def make_beat(rows: int, *, due: bool) -> Any:
    """Make a beat with so many entries."""
    Beat.rows, Beat.due = rows, due
    beat = Beat(app, lazy=True)
    beat.setup_schedule()
    return beat


def recorded() -> int:
    """Give how many results there are."""
    with engine().connect() as connection:
        count = connection.exec_driver_sql(f"SELECT count(*) FROM {RESULTS}")
        return int(count.scalar_one())


def engine() -> sa.Engine:
    """Connect to the database of the results."""
    return sa.create_engine(DATABASE, poolclass=sa.StaticPool)


def send(beat: Any, count: int) -> None:
    """Let so many tasks be sent, by a beat if there is one."""
    if beat is None:
        apply(count)
        return
    for _ in range(count):
        beat.tick()


def throughput(count: int) -> float:
    """Send all tasks, until their results are in the database."""
    look = engine().connect()
    counted = sa.text(f"SELECT count(*) FROM {RESULTS}")
    with worker():
        before = recorded()
        beat = make_beat(count, due=True) if VARIANT == "beat" else None
        began = time.perf_counter()
        send(beat, count)
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
    """Make a schedule, which a beat has in its memory."""
    global loaded  # noqa: PLW0603 - the next function asks it
    loaded = make_beat(rows, due=False)
    loaded.tick()


loaded: Any = None


def tick(times: int) -> list[float]:
    """Let beat look at its schedule."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        loaded.tick()
        taken.append(tasks.milliseconds(began))
    return taken


def schedule(task: str, count: int) -> None:
    """Send tasks; or let `work` start a beat that has them due."""
    if VARIANT != "beat":
        for number in range(count):
            app.send_task(task, [f"{task}-{number}"])


def work() -> None:
    """Run a worker, and with it a beat if that is the variant."""
    processes = [subprocess.Popen(worker_command())]
    if VARIANT == "beat" and os.environ.get("BENCH_TASK"):
        file = f"{tempfile.mkdtemp()}/schedule"
        processes.append(subprocess.Popen(command("beat", "--schedule", file)))
    for process in processes:
        process.wait()


def fate() -> str:
    """Look for a record of the task."""
    return "there is a record" if recorded() else "lost, no record"
