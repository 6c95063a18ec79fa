"""The peers, which one could use instead. Each module runs in its own process, in `.venv-bench`.

All modules have the same functions, as far as they apply:

    prepare()                       create the tables
    throughput(count) -> float      seconds until all of `count` due no-op tasks have their outcome
    inserting(count) -> float       the same for tasks that insert one row
    one(times) -> list[float]       milliseconds of a single due task, each of so many times
    load(rows)                      a schedule of so many rows, none of them due
    tick(times) -> list[float]      milliseconds of a lookup in that schedule
    schedule(task, count)           schedule a task of tasks.py so many times
    work()                          the scheduler and its workers, until they are ended
    fate() -> str                   what is recorded of the one task that was killed

`VARIANT` selects one of a module's rows, and `DATABASE` is the URL of its own database.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import sqlalchemy as sa

DATABASE = os.environ.get("BENCH_DATABASE", "")
VARIANT = os.environ.get("BENCH_VARIANT", "")
WORKERS = int(os.environ.get("BENCH_WORKERS", "8"))
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
    at_least: float = 0  # the bar for the project's throughput beside it, if there is one


PEERS = (
    Peer("psycopg, one claim, finishes one by one", "raw", "one_by_one", "each run", PERFORMANCE),
    Peer(
        "psycopg, one claim, finishes on 8 threads", "raw", "threads", "each run", PERFORMANCE[:1]
    ),
    Peer("psycopg, one claim, finishes in batches", "raw", "batches", "per 100", PERFORMANCE[:1]),
    Peer(
        "SQLAlchemy Core, one claim, finishes one by one",
        *("core", "", "each run", PERFORMANCE),
        at_least=2,
    ),
    Peer(
        "SQLAlchemy Core, one claim, inserts and ends one by one",
        *("core", "inserting", "each run, with its row", ("inserting",)),
        at_least=0.9,
    ),
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
        *("session", "one_claim", "each run", PERFORMANCE[:1]),
    ),
    Peer(
        "session + zope.sqlalchemy, load-modify-flush, claims one by one",
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
        at_least=6,
    ),
    Peer(
        "Celery, apply_async, Redis, SQL result backend",
        *("celery5", "apply_async", "at the end", ("throughput", "one", "killed")),
        redis=True,
    ),
    Peer(
        "Procrastinate",
        *("procrastinate3", "", "each step", PERFORMANCE + CORRECTNESS),
        at_least=5,
    ),
    Peer("DBOS, direct", "dbos3", "direct", "each step", ("throughput", "one", "killed")),
    Peer("DBOS, queue limited to 8", "dbos3", "queue", "each step", (*PERFORMANCE, "twice")),
    Peer(
        "pgqueuer, default",
        *("pgqueuer1", "default", "log, flushed in batches", PERFORMANCE + CORRECTNESS),
        at_least=0.6,
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
    Peer(
        "sqlite3, WAL, FULL",
        *("sqlite", "FULL", "each run", PERFORMANCE),
        kind="sqlite",
        at_least=0.3,
    ),
    Peer("sqlite3, WAL, NORMAL", "sqlite", "NORMAL", "each run", PERFORMANCE, kind="sqlite"),
    Peer(
        "SQLAlchemy Core on SQLite, one claim, inserts and ends one by one",
        *("core", "inserting", "each run, with its row", ("inserting",)),
        kind="sqlite",
        at_least=0.9,
    ),
    Peer(
        "SQLAlchemy Core on MariaDB, finishes one by one",
        *("core", "", "each run", PERFORMANCE),
        kind="mysql",
        at_least=1.5,
    ),
    Peer(
        "SQLAlchemy Core on MariaDB, one claim, inserts and ends one by one",
        *("core", "inserting", "each run, with its row", ("inserting",)),
        kind="mysql",
        at_least=0.9,
    ),
)


def libpq() -> str:
    """Return the database's URL in the form that psycopg understands."""
    url = sa.make_url(DATABASE).set(drivername="postgresql")
    return url.render_as_string(hide_password=False)
