"""pgqueuer 1 on asyncpg: one process, with its default settings or with batches of one."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
from pgqueuer import PgQueuer
from pgqueuer.models import Job
from pgqueuer.ports.repository import EntrypointExecutionParameter
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode, QueueManagerId

from . import VARIANT, libpq, tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HEARTBEAT = timedelta(seconds=30)
BATCH = 1 if VARIANT == "one_by_one" else 10


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Any, Any]]:
    """Connect; yield the manager with the tasks, and its queries."""
    connection = await asyncpg.connect(libpq())
    manager = PgQueuer.from_asyncpg_connection(connection)

    @manager.entrypoint("noop")
    async def noop(_job: Job) -> None:
        tasks.noop()

    @manager.entrypoint("trace")
    async def trace(job: Job) -> None:
        await asyncio.to_thread(tasks.trace, (job.payload or b"").decode())

    @manager.entrypoint("linger")
    async def linger(job: Job) -> None:
        await asyncio.to_thread(tasks.linger, (job.payload or b"").decode())

    yield manager, Queries.from_asyncpg_connection(connection)


def prepare() -> None:
    """Create its tables."""

    async def run() -> None:
        async with opened() as (_, queries):
            await queries.install()

    asyncio.run(run())


async def enqueue(queries: Any, task: str, count: int) -> None:
    """Enqueue jobs, all at once."""
    names = [f"{task}-{number}".encode() for number in range(count)]
    await queries.enqueue([task] * count, names, [0] * count)


def throughput(count: int) -> float:
    """Drain a queue; then the outcomes are in its log."""

    async def run() -> float:
        async with opened() as (manager, queries):
            await enqueue(queries, "noop", count)
            began = time.perf_counter()
            await manager.qm.run(mode=QueueExecutionMode.drain, batch_size=BATCH)
            seconds = time.perf_counter() - began
            ended = sum(entry.status == "successful" for entry in await queries.queue_log())
            if ended != count:
                raise RuntimeError(f"{count} jobs were due, but {ended} have ended")
            return seconds

    return asyncio.run(run())


def one(times: int) -> list[float]:
    """Enqueue a single job to a worker that waits, until its outcome is in the log."""

    async def run() -> list[float]:
        taken: list[float] = []
        look = await psycopg.AsyncConnection.connect(libpq(), autocommit=True)
        counted = "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'"
        async with opened() as (manager, _):
            worker = asyncio.create_task(manager.qm.run(batch_size=BATCH))
            await asyncio.sleep(1)
            async with opened() as (_, queries):
                for _ in range(times):
                    began = time.perf_counter()
                    await enqueue(queries, "noop", 1)
                    ended = 0
                    while ended <= len(taken):
                        await asyncio.sleep(0.0002)
                        found = await (await look.execute(counted)).fetchone()
                        ended = found[0] if found else 0
                    taken.append(tasks.milliseconds(began))
            manager.qm.shutdown.set()
            worker.cancel()
        return taken

    return asyncio.run(run())


def load(rows: int) -> None:
    """Insert jobs for tomorrow."""
    with psycopg.connect(libpq(), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO pgqueuer (priority, entrypoint, status, execute_after) "
            "SELECT 0, 'noop', 'queued', now() + interval '1 day' FROM generate_series(1, %s)",
            (rows,),
        )
        connection.execute("VACUUM ANALYZE pgqueuer")


def tick(times: int) -> list[float]:
    """Dequeue, as a worker does when it polls."""

    async def run() -> list[float]:
        taken = []
        async with opened() as (manager, queries):
            for _ in range(times):
                began = time.perf_counter()
                await queries.dequeue(
                    batch_size=BATCH,
                    entrypoints={"noop": EntrypointExecutionParameter(concurrency_limit=0)},
                    queue_manager_id=QueueManagerId(manager.qm.queue_manager_id),
                    global_concurrency_limit=None,
                    heartbeat_timeout=HEARTBEAT,
                )
                taken.append(tasks.milliseconds(began))
        return taken

    return asyncio.run(run())


def schedule(task: str, count: int) -> None:
    """Enqueue jobs."""

    async def run() -> None:
        async with opened() as (_, queries):
            await enqueue(queries, task, count)

    asyncio.run(run())


def work() -> None:
    """Run a worker."""

    async def run() -> None:
        async with opened() as (manager, _):
            await manager.qm.run(batch_size=BATCH)

    asyncio.run(run())


def fate() -> str:
    """Return the job's status."""
    with psycopg.connect(libpq()) as connection:
        row = connection.execute("SELECT status::text FROM pgqueuer").fetchone()
    return f"`{row[0]}`" if row else "no record"
