"""psycopg and handwritten SQL: the limit of PostgreSQL itself."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import local

import psycopg

from . import VARIANT, WORKERS, libpq, tables, tasks
from .tables import INTERVAL, PAST, load, prepare

BATCH = 100
DUE = """
    SELECT id, next_run_at FROM flows WHERE next_run_at <= %(now)s
    ORDER BY next_run_at FOR UPDATE SKIP LOCKED
"""
CLAIM = f"""
    WITH due AS ({DUE}),
    moved AS (
        UPDATE flows SET next_run_at = %(next)s FROM due WHERE flows.id = due.id
    )
    INSERT INTO runs (flow_id, slot, status, started_at)
    SELECT id, next_run_at, 'in_progress', %(now)s FROM due RETURNING id, flow_id
"""
END_RUN = (
    "UPDATE runs SET status = 'success', ended_at = %s WHERE id = %s AND status = 'in_progress'"
)
END_FLOW = "UPDATE flows SET last_status = 'success', last_run_at = %s WHERE id = %s"

__all__ = ["load", "one", "prepare", "throughput", "tick"]


def claim(connection: psycopg.Connection) -> list[tuple[int, int]]:
    """Claim all due flows."""
    now = tables.now()
    with connection.transaction():
        return connection.execute(CLAIM, {"now": now, "next": now + INTERVAL}).fetchall()


def finish(connection: psycopg.Connection, runs: list[tuple[int, int]]) -> None:
    """Run tasks, and record them in one transaction."""
    with connection.transaction():
        for run, flow in runs:
            tasks.noop()
            connection.execute(END_FLOW, (tables.now(), flow))
            connection.execute(END_RUN, (tables.now(), run))


def throughput(count: int) -> float:
    """Claim all at once; record each, or each hundred, in a transaction."""
    load(count, PAST)
    connection = psycopg.connect(libpq(), autocommit=True)
    size = BATCH if VARIANT == "batches" else 1
    here = local()

    def connect() -> None:
        here.connection = psycopg.connect(libpq(), autocommit=True)

    with ThreadPoolExecutor(WORKERS, initializer=connect) as pool:
        if VARIANT == "threads":
            list(pool.map(lambda _: time.sleep(0.05), range(WORKERS)))  # all of them connect
        began = time.perf_counter()
        runs = claim(connection)
        batches = [runs[start : start + size] for start in range(0, len(runs), size)]
        if VARIANT == "threads":
            list(pool.map(lambda batch: finish(here.connection, batch), batches))
        else:
            for batch in batches:
                finish(connection, batch)
        seconds = time.perf_counter() - began
    tables.check(count)
    return seconds


def one(times: int) -> list[float]:
    """Claim and record a single task."""
    load(1)
    connection = psycopg.connect(libpq(), autocommit=True)
    taken = []
    for _ in range(times):
        tables.make_one_due()
        began = time.perf_counter()
        finish(connection, claim(connection))
        taken.append(tasks.milliseconds(began))
    return taken


def tick(times: int) -> list[float]:
    """Look up the due flows."""
    connection = psycopg.connect(libpq(), autocommit=True)
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        connection.execute(DUE, {"now": tables.now()}).fetchall()
        taken.append(tasks.milliseconds(began))
    return taken
