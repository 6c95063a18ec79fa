"""SQLAlchemy Core on the same tables, on any database: two updates and a commit a run."""

from __future__ import annotations

import time

import sqlalchemy as sa

from . import tables, tasks
from .tables import FLOWS, INTERVAL, PAST, RUNS, load, prepare

__all__ = ["load", "one", "prepare", "throughput", "tick"]


def due(now: object) -> sa.Select[tuple[int, object]]:
    """Select what is due, most overdue first."""
    chosen = sa.select(FLOWS.c.id, FLOWS.c.next_run_at).where(FLOWS.c.next_run_at <= now)
    return chosen.order_by(FLOWS.c.next_run_at)


def claim(connection: sa.Connection) -> list[tuple[int, int]]:
    """Claim all that is due; give the runs with their flows."""
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
        raise RuntimeError(f"run {run} was not ours")
    connection.commit()


def throughput(count: int) -> float:
    """Claim all at once; record each in a transaction."""
    load(count, PAST)
    with tables.make_engine().connect() as connection:
        began = time.perf_counter()
        for run, flow in claim(connection):
            finish(connection, run, flow)
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
    """Ask for what is due."""
    taken = []
    with tables.make_engine().connect() as connection:
        for _ in range(times):
            began = time.perf_counter()
            connection.execute(due(tables.now())).all()
            connection.rollback()
            taken.append(tasks.milliseconds(began))
    return taken
