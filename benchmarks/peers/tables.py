"""The tables of a minimal scheduler: flows with their next time, and a row for each run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from benchmarks.databases import allow_recursion, numbers, settle

from . import DATABASE

metadata = sa.MetaData()
Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
FLOWS = sa.Table(
    "flows",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("next_run_at", sa.DateTime, nullable=False, index=True),
    sa.Column("last_status", sa.String(20)),
    sa.Column("last_run_at", sa.DateTime),
)
RUNS = sa.Table(
    "runs",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("flow_id", Id, sa.ForeignKey("flows.id"), nullable=False),
    sa.Column("slot", sa.DateTime, nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("started_at", sa.DateTime, nullable=False),
    sa.Column("ended_at", sa.DateTime),
    sa.UniqueConstraint("flow_id", "slot"),
)
INSERTED = sa.Table(
    "inserted",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("flow", sa.String(200), nullable=False),
)
PAST, FUTURE = datetime(2000, 1, 1), datetime(2999, 1, 1)  # noqa: DTZ001 - UTC, as all here
INTERVAL = timedelta(days=1)


def now() -> datetime:
    """Return the time as the tables store it."""
    return datetime.now(UTC).replace(tzinfo=None)


def make_engine() -> sa.Engine:
    """Connect as the rendered project does: READ COMMITTED on a server, else WAL and FULL."""
    if not DATABASE.startswith("sqlite"):
        return sa.create_engine(DATABASE, pool_size=10, isolation_level="READ COMMITTED")
    engine = sa.create_engine(DATABASE)

    @sa.event.listens_for(engine, "connect")
    def set_durability(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")

    return engine


def prepare() -> None:
    """Create the tables."""
    metadata.create_all(sa.create_engine(DATABASE))


def load(rows: int, next_run_at: datetime = FUTURE) -> None:
    """Insert so many flows, all due at one time."""
    engine = sa.create_engine(DATABASE)
    row = numbers(rows)
    chosen = sa.select(
        sa.literal("flow-") + sa.cast(row.c.i, sa.String(20)), sa.literal(next_run_at)
    )
    with engine.begin() as connection:
        allow_recursion(connection)
        connection.execute(sa.insert(FLOWS).from_select(["name", "next_run_at"], chosen))
    settle(engine)
    engine.dispose()


def check(count: int) -> None:
    """Raise RuntimeError unless there are so many runs, all of them successes."""
    engine = sa.create_engine(DATABASE)
    counted = sa.select(RUNS.c.status, sa.func.count()).group_by(RUNS.c.status)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(counted)]
    if found != [("success", count)]:
        raise RuntimeError(f"{count} tasks were due, but the runs are {found}")


def check_inserted(count: int) -> None:
    """Raise RuntimeError unless the tasks have inserted so many rows."""
    with sa.create_engine(DATABASE).connect() as connection:
        found = connection.scalar(sa.select(sa.func.count()).select_from(INSERTED))
    if found != count:
        raise RuntimeError(f"{count} tasks were due, but they inserted {found} rows")


def make_one_due() -> None:
    """Reset the first flow to due."""
    engine = sa.create_engine(DATABASE)
    with engine.begin() as connection:
        first = sa.select(sa.func.min(FLOWS.c.id)).scalar_subquery()
        first_id = connection.scalar(sa.select(first))
        connection.execute(sa.delete(RUNS).where(RUNS.c.flow_id == first_id))
        connection.execute(sa.update(FLOWS).where(FLOWS.c.id == first_id).values(next_run_at=PAST))
    engine.dispose()
