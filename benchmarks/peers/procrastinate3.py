"""Procrastinate 3: a worker with a concurrency of 8."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import procrastinate
import psycopg

from . import WORKERS, libpq, tasks

Result = TypeVar("Result")
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=libpq()))
TASKS = {name: app.task(getattr(tasks, name), name=name) for name in ("noop", "trace", "linger")}


def opened(work: Callable[[], Awaitable[Result]]) -> Result:
    """Run a coroutine with the application's connections open."""

    async def run() -> Result:
        async with app.open_async():
            return await work()

    return asyncio.run(run())


def prepare() -> None:
    """Create its tables."""
    opened(app.schema_manager.apply_schema_async)


async def defer(task: str, count: int) -> None:
    """Defer jobs, all at once."""
    names = [f"{task}-{number}" for number in range(count)]
    arguments = [{} if task == "noop" else {"name": name} for name in names]
    await TASKS[task].batch_defer_async(*arguments)


def throughput(count: int) -> float:
    """Run a worker until all deferred jobs have their outcome."""

    async def run() -> float:
        await defer("noop", count)
        began = time.perf_counter()
        await app.run_worker_async(
            concurrency=WORKERS, wait=False, listen_notify=False, install_signal_handlers=False
        )
        return time.perf_counter() - began

    seconds = opened(run)
    if statuses() != {"succeeded": count}:
        raise RuntimeError(f"{count} jobs were due, but they are {statuses()}")
    return seconds


def statuses() -> dict[str, int]:
    """Return the number of jobs by status."""
    counted = "SELECT status::text, count(*) FROM procrastinate_jobs GROUP BY status"
    with psycopg.connect(libpq()) as connection:
        return dict(connection.execute(counted).fetchall())


def one(times: int) -> list[float]:
    """Defer a single job to a worker that waits, until its outcome is recorded."""

    async def run() -> list[float]:
        worker = asyncio.create_task(app.run_worker_async(concurrency=WORKERS))
        await asyncio.sleep(1)
        look = await psycopg.AsyncConnection.connect(libpq(), autocommit=True)
        taken = []
        for _ in range(times):
            began = time.perf_counter()
            job = await TASKS["noop"].defer_async()
            status = None
            while status != "succeeded":
                await asyncio.sleep(0.0002)
                found = await look.execute(
                    "SELECT status::text FROM procrastinate_jobs WHERE id = %s", (job,)
                )
                row = await found.fetchone()
                status = row and row[0]
            taken.append(tasks.milliseconds(began))
        worker.cancel()
        return taken

    return opened(run)


def load(rows: int) -> None:
    """Insert jobs for tomorrow."""
    with psycopg.connect(libpq(), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, scheduled_at) "
            "SELECT 'default', 'noop', now() + interval '1 day' FROM generate_series(1, %s)",
            (rows,),
        )
        connection.execute("VACUUM ANALYZE procrastinate_jobs")


def tick(times: int) -> list[float]:
    """Fetch a job, as a worker does when it polls."""

    async def run() -> list[float]:
        worker = await app.job_manager.register_worker()
        taken = []
        for _ in range(times):
            began = time.perf_counter()
            await app.job_manager.fetch_job(queues=None, worker_id=worker)
            taken.append(tasks.milliseconds(began))
        return taken

    return opened(run)


def schedule(task: str, count: int) -> None:
    """Defer jobs."""
    opened(lambda: defer(task, count))


def work() -> None:
    """Run a worker."""
    opened(lambda: app.run_worker_async(concurrency=WORKERS))


def fate() -> str:
    """Return the job's status."""
    return f"`{next(iter(statuses()), 'no record')}`"
