"""What one would use instead. Each module runs in a process of its own, in `.venv-bench`.

All have the same shape; what makes no sense for one is left out of it:

    prepare()                       make the tables
    throughput(count) -> float      seconds until so many due no-op tasks have their outcome
    one(times) -> list[float]       milliseconds of a single due task, so many times
    load(rows)                      a schedule of so many rows, none of them due
    tick(times) -> list[float]      milliseconds of a look at that schedule
    schedule(task, count)           let so many runs of a task in tasks.py become due
    work()                          the scheduler and its workers, until they are ended
    fate() -> str                   what is recorded of the one task that was killed

`VARIANT` is how a module learns which of its rows is meant, `DATABASE` is a database of its own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import sqlalchemy as sa

DATABASE = os.environ.get("BENCH_DATABASE", "")
VARIANT = os.environ.get("BENCH_VARIANT", "")
WORKERS = 8
PERFORMANCE = ("throughput", "one", "tick")
CORRECTNESS = ("twice", "killed")


@dataclass(frozen=True)
class Peer:
    """A row of the table: what is measured of it, and how."""

    label: str
    module: str
    variant: str
    recorded: str
    columns: tuple[str, ...]
    kind: str = "postgresql"
    redis: bool = False


PEERS = (
    Peer("psycopg, one claim, finishes one by one", "raw", "one_by_one", "each run", PERFORMANCE),
    Peer(
        "psycopg, one claim, finishes on 8 threads", "raw", "threads", "each run", PERFORMANCE[:1]
    ),
    Peer("psycopg, one claim, finishes in batches", "raw", "batches", "per 100", PERFORMANCE[:1]),
    Peer("SQLAlchemy Core, one claim, finishes one by one", "core", "", "each run", PERFORMANCE),
    Peer(
        "session + zope.sqlalchemy, statements, one by one",
        *("session", "statements", "each run", PERFORMANCE[:2]),
    ),
    Peer(
        "session + zope.sqlalchemy, statements, on 8 threads",
        *("session", "threads", "each run", PERFORMANCE[:1]),
    ),
    Peer(
        "session + zope.sqlalchemy, load-modify-flush, one claim",
        *("session", "one-claim", "each run", PERFORMANCE[:1]),
    ),
    Peer(
        "session + zope.sqlalchemy, load-modify-flush, one_by_one",
        *("session", "one_by_one", "each run", PERFORMANCE[:2]),
    ),
    Peer(
        "APScheduler, 8 threads, SQLAlchemy job store",
        *("apscheduler3", "", "nowhere", PERFORMANCE + CORRECTNESS),
    ),
    Peer(
        "Celery, beat, Redis, SQL result backend",
        *("celery5", "beat", "at the end", PERFORMANCE + CORRECTNESS),
        redis=True,
    ),
    Peer(
        "Celery, apply_async, Redis, SQL result backend",
        *("celery5", "apply_async", "at the end", ("throughput", "one", "killed")),
        redis=True,
    ),
    Peer("Procrastinate", "procrastinate3", "", "each step", PERFORMANCE + CORRECTNESS),
    Peer("DBOS, direct", "dbos3", "direct", "each step", ("throughput", "one", "killed")),
    Peer("DBOS, queue limited to 8", "dbos3", "queue", "each step", (*PERFORMANCE, "twice")),
    Peer(
        "pgqueuer, default",
        *("pgqueuer1", "default", "log, flushed in batches", PERFORMANCE + CORRECTNESS),
    ),
    Peer("pgqueuer, batches of 1", "pgqueuer1", "one_by_one", "log, each run", PERFORMANCE[:2]),
    Peer(
        "Huey, SQLite",
        *("huey3", "sqlite", "value only", PERFORMANCE + CORRECTNESS),
        kind="sqlite",
    ),
    Peer(
        "Huey, Redis",
        *("huey3", "redis", "value only, not durable", PERFORMANCE + CORRECTNESS),
        kind="sqlite",
        redis=True,
    ),
    Peer("sqlite3, WAL, FULL", "sqlite", "FULL", "each run", PERFORMANCE, kind="sqlite"),
    Peer("sqlite3, WAL, NORMAL", "sqlite", "NORMAL", "each run", PERFORMANCE, kind="sqlite"),
    Peer(
        "SQLAlchemy Core on MariaDB, finishes one by one",
        *("core", "", "each run", PERFORMANCE),
        kind="mysql",
    ),
)


def libpq() -> str:
    """Give the database's address as psycopg understands it."""
    url = sa.make_url(DATABASE).set(drivername="postgresql")
    return url.render_as_string(hide_password=False)
