"""SQLAlchemy Core on the same tables, on any database: two updates and a commit a run."""

from __future__ import annotations

import time
from collections.abc import Callable

import sqlalchemy as sa

from . import tables, tasks
from .tables import FLOWS, INSERTED, INTERVAL, PAST, RUNS, load, prepare

__all__ = ["inserting", "load", "one", "prepare", "throughput", "tick"]


def due(now: object) -> sa.Select[tuple[int, object]]:
    """Select the due flows, most overdue first."""
    chosen = sa.select(FLOWS.c.id, FLOWS.c.next_run_at).where(FLOWS.c.next_run_at <= now)
    return chosen.order_by(FLOWS.c.next_run_at)


def claim(connection: sa.Connection) -> list[tuple[int, int]]:
    """Claim all due flows; return the runs with their flows."""
    now = tables.now()
    flows = connection.execute(due(now).with_for_update(skip_locked=True)).all()
    if flows:
        connection.execute(
            sa.insert(RUNS),
            [
                {"flow_id": flow, "slot": slot, "status": "in_progress", "started_at": now}
                for flow, slot in flows
            ],
        )
        moved = sa.update(FLOWS).where(FLOWS.c.id.in_([flow for flow, _ in flows]))
        connection.execute(moved.values(next_run_at=now + INTERVAL))
    mine = sa.select(RUNS.c.id, RUNS.c.flow_id).where(RUNS.c.status == "in_progress")
    runs = [(run, flow) for run, flow in connection.execute(mine)]
    connection.commit()
    return runs


def finish(connection: sa.Connection, run: int, flow: int) -> None:
    """Run a task and record it."""
    tasks.noop()
    end(connection, run, flow)


def insert_and_finish(connection: sa.Connection, run: int, flow: int) -> None:
    """Run a task that inserts a row, and record it in the same transaction."""
    connection.execute(sa.insert(INSERTED).values(flow=f"flow-{flow}"))
    end(connection, run, flow)


def end(connection: sa.Connection, run: int, flow: int) -> None:
    """Record a success, and commit."""
    now = tables.now()
    connection.execute(
        sa.update(FLOWS).where(FLOWS.c.id == flow).values(last_status="success", last_run_at=now)
    )
    ended = connection.execute(
        sa.update(RUNS)
        .where(RUNS.c.id == run, RUNS.c.status == "in_progress")
        .values(status="success", ended_at=now)
    )
    if ended.rowcount != 1:
        raise RuntimeError(f"Run {run} has no claim")
    connection.commit()


def throughput(count: int) -> float:
    """Claim all at once; record each in a transaction."""
    return run_all_due(count, finish)


def inserting(count: int) -> float:
    """Claim all at once; insert a row and record the run in a transaction, for each."""
    seconds = run_all_due(count, insert_and_finish)
    tables.check_inserted(count)
    return seconds


def run_all_due(count: int, work: Callable[[sa.Connection, int, int], None]) -> float:
    """Claim so many flows at once, and call a function for each run; return the seconds."""
    load(count, PAST)
    with tables.make_engine().connect() as connection:
        began = time.perf_counter()
        for run, flow in claim(connection):
            work(connection, run, flow)
        seconds = time.perf_counter() - began
    tables.check(count)
    return seconds


def one(times: int) -> list[float]:
    """Claim and record a single task."""
    load(1)
    taken = []
    with tables.make_engine().connect() as connection:
        for _ in range(times):
            tables.make_one_due()
            began = time.perf_counter()
            for run, flow in claim(connection):
                finish(connection, run, flow)
            taken.append(tasks.milliseconds(began))
    return taken


def tick(times: int) -> list[float]:
    """Look up the due flows."""
    taken = []
    with tables.make_engine().connect() as connection:
        for _ in range(times):
            began = time.perf_counter()
            connection.execute(due(tables.now())).all()
            connection.rollback()
            taken.append(tasks.milliseconds(began))
    return taken
