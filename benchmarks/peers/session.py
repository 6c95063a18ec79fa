"""A session joined by zope.sqlalchemy, as Pyramid projects use it: by statements, or by objects."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import sqlalchemy as sa
import transaction
import zope.sqlalchemy
from sqlalchemy.orm import DeclarativeBase, Session

from . import VARIANT, WORKERS, core, tables, tasks
from .tables import INTERVAL, PAST, load, prepare

__all__ = ["load", "one", "prepare", "throughput"]


class Base(DeclarativeBase):
    """The base of the two models."""

    metadata = tables.metadata


class Flow(Base):
    """A flow."""

    __table__ = tables.FLOWS


class Run(Base):
    """A run."""

    __table__ = tables.RUNS


@contextmanager
def opened(engine: sa.Engine) -> Iterator[Session]:
    """Open a session in a transaction manager of its own; commit at the end."""
    manager = transaction.TransactionManager(explicit=True)
    with manager:
        session = Session(engine)
        zope.sqlalchemy.register(session, initial_state="changed", transaction_manager=manager)
        yield session


def claim_all(engine: sa.Engine) -> list[tuple[int, int]]:
    """Claim all due flows, as Core does."""
    with engine.connect() as connection:
        return core.claim(connection)


def claim_one(engine: sa.Engine) -> tuple[int, int] | None:
    """Claim the most overdue flow, by its object; return None if none is due."""
    now = tables.now()
    with opened(engine) as session:
        chosen = sa.select(Flow).where(Flow.next_run_at <= now).order_by(Flow.next_run_at)
        flow: Any = session.scalars(chosen.limit(1).with_for_update(skip_locked=True)).first()
        if flow is None:
            return None
        run: Any = Run(flow_id=flow.id, slot=flow.next_run_at, status="in_progress", started_at=now)
        session.add(run)
        flow.next_run_at = now + INTERVAL
        session.flush()
        return run.id, flow.id


def by_statements(engine: sa.Engine, run: int, flow: int) -> None:
    """Run a task and record it by two updates."""
    with opened(engine) as session:
        tasks.noop()
        now = tables.now()
        updates: tuple[tuple[Any, int, dict[str, str | datetime]], ...] = (
            (Flow, flow, {"last_status": "success", "last_run_at": now}),
            (Run, run, {"status": "success", "ended_at": now}),
        )
        for model, key, values in updates:
            session.execute(
                sa.update(model)
                .where(model.id == key)
                .values(values)
                .execution_options(synchronize_session=False)
            )


def by_objects(engine: sa.Engine, run_id: int, flow_id: int) -> None:
    """Run a task and record it by loading, changing and flushing."""
    with opened(engine) as session:
        run: Any = session.get_one(Run, run_id)
        flow: Any = session.get_one(Flow, flow_id)
        tasks.noop()
        run.status, run.ended_at = "success", tables.now()
        flow.last_status, flow.last_run_at = "success", run.ended_at
        session.flush()


FINISH: Callable[[sa.Engine, int, int], None] = (
    by_statements if VARIANT in {"statements", "threads"} else by_objects
)


def run_due(engine: sa.Engine) -> None:
    """Claim all due flows and record their runs."""
    if VARIANT == "one_by_one":
        while claimed := claim_one(engine):
            FINISH(engine, *claimed)
    elif VARIANT == "threads":
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(lambda claimed: FINISH(engine, *claimed), claim_all(engine)))
    else:
        for claimed in claim_all(engine):
            FINISH(engine, *claimed)


def throughput(count: int) -> float:
    """Claim and record in the way of the variant."""
    load(count, PAST)
    engine = tables.make_engine()
    engine.connect().close()
    began = time.perf_counter()
    run_due(engine)
    seconds = time.perf_counter() - began
    tables.check(count)
    return seconds


def one(times: int) -> list[float]:
    """Claim and record a single task."""
    load(1)
    engine = tables.make_engine()
    taken = []
    for _ in range(times):
        tables.make_one_due()
        began = time.perf_counter()
        run_due(engine)
        taken.append(tasks.milliseconds(began))
    return taken
