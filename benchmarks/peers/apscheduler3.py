"""APScheduler 3: a scheduler on 8 threads, its jobs in the database."""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from apscheduler.events import EVENT_JOB_EXECUTED, EVENT_JOB_MISSED
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from . import DATABASE, WORKERS, tasks

TABLE = "apscheduler_jobs"
# Enough time to start two schedulers.
AHEAD = timedelta(seconds=15)


def make_scheduler() -> Any:
    """Create a scheduler as its guide does, but without the limit that drops late jobs."""
    return BackgroundScheduler(
        jobstores={"default": SQLAlchemyJobStore(url=DATABASE)},
        executors={"default": ThreadPoolExecutor(WORKERS)},
        job_defaults={"misfire_grace_time": None},
        timezone=UTC,
    )


def prepare() -> None:
    """Create its table."""
    scheduler = make_scheduler()
    scheduler.start(paused=True)
    scheduler.shutdown()


def add(scheduler: Any, count: int, due: datetime, task: str = "noop", **options: Any) -> None:
    """Store so many jobs that are due once."""
    for number in range(count):
        scheduler.add_job(
            f"benchmarks.peers.tasks:{task}",
            *("date",),
            args=[] if task == "noop" else [f"{task}-{number}"],
            run_date=due,
            id=f"{task}-{number}",
            **options,
        )


def throughput(count: int) -> float:
    """Resume a scheduler that has so many jobs due; it records nothing, so its events count."""
    scheduler = make_scheduler()
    scheduler.start(paused=True)
    add(scheduler, count, datetime.now(UTC) - timedelta(minutes=1))
    ended, all_ended = [0], threading.Event()

    def count_it(_event: object) -> None:
        ended[0] += 1
        if ended[0] >= count:
            all_ended.set()

    scheduler.add_listener(count_it, EVENT_JOB_EXECUTED)
    began = time.perf_counter()
    scheduler.resume()
    all_ended.wait()
    return time.perf_counter() - began


def misfires(count: int) -> int:
    """Return how many of so many jobs it drops as misfires by default."""
    logging.disable(logging.WARNING)
    scheduler = make_scheduler()
    scheduler.start(paused=True)
    add(scheduler, count, datetime.now(UTC) + timedelta(seconds=1), misfire_grace_time=1)
    seen, dropped, all_seen = [0], [0], threading.Event()

    def count_it(event: Any) -> None:
        seen[0] += 1
        dropped[0] += event.code == EVENT_JOB_MISSED
        if seen[0] >= count:
            all_seen.set()

    scheduler.add_listener(count_it, EVENT_JOB_EXECUTED | EVENT_JOB_MISSED)
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    engine = sa.create_engine(DATABASE)
    for job in scheduler.get_jobs():
        job.modify(next_run_time=soon)
    engine.dispose()
    scheduler.resume()
    all_seen.wait(60)
    return dropped[0]


def one(times: int) -> list[float]:
    """Add a job that is due to a scheduler that waits, until it has been executed."""
    scheduler = make_scheduler()
    executed = threading.Event()
    scheduler.add_listener(lambda _event: executed.set(), EVENT_JOB_EXECUTED)
    scheduler.start()
    taken = []
    for _ in range(times):
        executed.clear()
        began = time.perf_counter()
        add(scheduler, 1, datetime.now(UTC))
        executed.wait()
        taken.append(tasks.milliseconds(began))
    return taken


def load(rows: int) -> None:
    """Store a job, and multiply its row."""
    scheduler = make_scheduler()
    scheduler.start(paused=True)
    add(scheduler, 1, datetime.now(UTC) + timedelta(days=1))
    scheduler.shutdown()
    engine = sa.create_engine(DATABASE)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO {TABLE} (id, next_run_time, job_state) SELECT id || '-' || n, "
            f"next_run_time + n, job_state FROM {TABLE}, generate_series(1, {rows - 1}) AS n"
        )
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql(f"VACUUM ANALYZE {TABLE}")


def tick(times: int) -> list[float]:
    """Query its store as it does at every wake-up."""
    scheduler = make_scheduler()
    scheduler.start(paused=True)
    store = scheduler._jobstores["default"]  # noqa: SLF001 - its own loop uses it
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        store.get_due_jobs(datetime.now(UTC))
        store.get_next_run_time()
        taken.append(tasks.milliseconds(began))
    return taken


def schedule(task: str, count: int) -> None:
    """Store daily jobs for a time when all schedulers are up; a task to be killed is due once.

    Two schedulers on one store fail with an error if both find the same job that is due once.
    """
    scheduler = make_scheduler()
    scheduler.start(paused=True)
    due = datetime.now(UTC) + AHEAD
    add(scheduler, count, due, task)
    if task == "trace":
        for job in scheduler.get_jobs():
            job.modify(trigger=IntervalTrigger(days=1), next_run_time=due)
    scheduler.shutdown()


def work() -> None:
    """Run the scheduler."""
    make_scheduler().start()
    threading.Event().wait()


def fate() -> str:
    """Look for a record of the job; its row is gone when it is handed to a thread."""
    with sa.create_engine(DATABASE).connect() as connection:
        left = connection.exec_driver_sql(f"SELECT count(*) FROM {TABLE}").scalar_one()
    return "still scheduled" if left else "lost, no record"
