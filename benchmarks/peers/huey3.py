"""Huey 3: a consumer with 8 threads, its queue in SQLite or in Redis."""

from __future__ import annotations

import os
import threading
import time
from datetime import datetime, timedelta
from typing import Any

import huey
import sqlalchemy as sa

from benchmarks.databases import REDIS_URL

from . import DATABASE, VARIANT, WORKERS, tasks

# The value of a task is its only record, so each task returns one.
if VARIANT == "redis":
    app: Any = huey.RedisHuey("bench", url=REDIS_URL)
else:
    app = huey.SqliteHuey("bench", filename=sa.make_url(DATABASE).database)
CALLED = True
# Its workers poll less and less often while idle: a task comes after such a while.
QUIET_SECONDS = 0.5


@app.task(name="noop")
def noop() -> bool:
    """Do nothing."""
    tasks.noop()
    return CALLED


@app.task(name="trace")
def trace(name: str) -> bool:
    """Leave a trace."""
    tasks.trace(name)
    return CALLED


@app.task(name="linger")
def linger(name: str) -> bool:
    """Run for long enough to be killed."""
    tasks.linger(name)
    return CALLED


def prepare() -> None:
    """Create its tables."""
    app.flush()


def start() -> Any:
    """Start a consumer on threads of this process."""
    consumer = app.create_consumer(workers=WORKERS, worker_type="thread")
    consumer.start()
    return consumer


def throughput(count: int) -> float:
    """Start a consumer with so many tasks queued, until all their values are stored."""
    for _ in range(count):
        noop()
    began = time.perf_counter()
    consumer = start()
    tasks.wait_for(app.result_count, count)
    seconds = time.perf_counter() - began
    consumer.stop(graceful=False)
    return seconds


def one(times: int) -> list[float]:
    """Enqueue a single task to a consumer that waits, until its value is stored."""
    consumer = start()
    time.sleep(1)
    taken = []
    for number in range(times):
        time.sleep(QUIET_SECONDS)
        began = time.perf_counter()
        noop()
        tasks.wait_for(app.result_count, number + 1, 0.0002)
        taken.append(tasks.milliseconds(began))
    consumer.stop(graceful=False)
    return taken


def load(rows: int) -> None:
    """Schedule tasks for tomorrow."""
    task = noop.s(eta=datetime.now() + timedelta(days=1))  # noqa: DTZ005 - Huey uses local time
    if VARIANT == "sqlite":
        engine = sa.create_engine(DATABASE)
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO schedule (queue, data, timestamp) WITH RECURSIVE n(i) AS (SELECT 1 "
                "UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT ?, ?, ? FROM n",
                (rows, app.name, app.serialize_task(task), time.time() + 86_400),
            )
        return
    import redis  # noqa: PLC0415 - only here

    server = redis.Redis.from_url(REDIS_URL)
    pipe = server.pipeline(transaction=False)
    data = app.serialize_task(task)
    for number in range(rows):
        pipe.zadd(app.storage.schedule_key, {data + str(number).encode(): time.time() + 86_400})
        if number % 10_000 == 0:
            pipe.execute()
    pipe.execute()


def tick(times: int) -> list[float]:
    """Query the due tasks, as its scheduler does every second."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        app.read_schedule()
        taken.append(tasks.milliseconds(began))
    return taken


def schedule(task: str, count: int) -> None:
    """Enqueue the task to be killed; the other tasks are periodic, in each consumer."""
    if task == "linger":
        for number in range(count):
            linger(f"{task}-{number}")


def make_periodic(name: str) -> None:
    """Declare a periodic task that is due once in each consumer, at its first check."""
    looks = iter([True])
    app.periodic_task(lambda _time: next(looks, False), name=name)(lambda: tasks.trace(name))


def work() -> None:
    """Run a consumer, with its periodic tasks."""
    if os.environ.get("BENCH_TASK") == "trace":
        for number in range(int(os.environ["BENCH_COUNT"])):
            make_periodic(f"trace-{number}")
    start()
    threading.Event().wait()


def fate() -> str:
    """Return what is recorded of the task."""
    if app.pending_count() or app.scheduled_count():
        return "still queued"
    return "there is a record" if app.result_count() else "lost, no record"
