"""sqlite3 and handwritten SQL in WAL mode, with the `PRAGMA synchronous` of the variant."""

from __future__ import annotations

import sqlite3
import time

import sqlalchemy as sa

from . import DATABASE, VARIANT, tables, tasks
from .tables import INTERVAL, PAST, load, prepare

DUE = "SELECT id, next_run_at FROM flows WHERE next_run_at <= ? ORDER BY next_run_at"
START = "INSERT INTO runs (flow_id, slot, status, started_at) VALUES (?, ?, 'in_progress', ?)"
MOVE = "UPDATE flows SET next_run_at = ? WHERE id = ?"
END_RUN = "UPDATE runs SET status = 'success', ended_at = ? WHERE id = ? AND status = 'in_progress'"
END_FLOW = "UPDATE flows SET last_status = 'success', last_run_at = ? WHERE id = ?"

__all__ = ["load", "one", "prepare", "throughput", "tick"]


def connect() -> sqlite3.Connection:
    """Open the file."""
    connection = sqlite3.connect(str(sa.make_url(DATABASE).database), isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {VARIANT}")
    return connection


def stamp(add: object = None) -> str:
    """Return the time as SQLAlchemy stores it."""
    moment = tables.now() + (INTERVAL if add else INTERVAL * 0)
    return moment.isoformat(" ", "microseconds")


def run_due(connection: sqlite3.Connection) -> None:
    """Claim all due flows at once; record each run in a transaction."""
    now, later = stamp(), stamp(INTERVAL)
    connection.execute("BEGIN IMMEDIATE")
    flows = connection.execute(DUE, (now,)).fetchall()
    runs = [(connection.execute(START, (flow, slot, now)).lastrowid, flow) for flow, slot in flows]
    connection.executemany(MOVE, [(later, flow) for flow, _ in flows])
    connection.execute("COMMIT")
    for run, flow in runs:
        tasks.noop()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(END_FLOW, (stamp(), flow))
        connection.execute(END_RUN, (stamp(), run))
        connection.execute("COMMIT")


def throughput(count: int) -> float:
    """Run all due tasks."""
    load(count, PAST)
    connection = connect()
    began = time.perf_counter()
    run_due(connection)
    seconds = time.perf_counter() - began
    tables.check(count)
    return seconds


def one(times: int) -> list[float]:
    """Run a single task."""
    load(1)
    connection = connect()
    taken = []
    for _ in range(times):
        tables.make_one_due()
        began = time.perf_counter()
        run_due(connection)
        taken.append(tasks.milliseconds(began))
    return taken


def tick(times: int) -> list[float]:
    """Look up the due flows."""
    connection = connect()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        connection.execute(DUE, (stamp(),)).fetchall()
        taken.append(tasks.milliseconds(began))
    return taken
