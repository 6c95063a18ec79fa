"""The least that a hand-written scheduler keeps: flows with a next time, and a row a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

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
PAST, FUTURE = datetime(2000, 1, 1), datetime(2999, 1, 1)  # noqa: DTZ001 - UTC, as all here
INTERVAL = timedelta(days=1)


def now() -> datetime:
    """Give the time as the tables keep it."""
    return datetime.now(UTC).replace(tzinfo=None)


def make_engine() -> sa.Engine:
    """Connect as the rendered project does: READ COMMITTED on a server."""
    options = {} if DATABASE.startswith("sqlite") else {"isolation_level": "READ COMMITTED"}
    return sa.create_engine(DATABASE, pool_size=10, **options)


def prepare() -> None:
    """Make the tables."""
    metadata.create_all(sa.create_engine(DATABASE))


def load(rows: int, next_run_at: datetime = FUTURE) -> None:
    """Insert so many flows."""
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
    """Raise unless there are so many runs, all of them successes."""
    engine = sa.create_engine(DATABASE)
    counted = sa.select(RUNS.c.status, sa.func.count()).group_by(RUNS.c.status)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(counted)]
    if found != [("success", count)]:
        raise RuntimeError(f"{count} tasks were due, and there are {found}")


def make_one_due() -> None:
    """Let the first flow be due."""
    engine = sa.create_engine(DATABASE)
    with engine.begin() as connection:
        first = sa.select(sa.func.min(FLOWS.c.id)).scalar_subquery()
        first_id = connection.scalar(sa.select(first))
        connection.execute(sa.delete(RUNS).where(RUNS.c.flow_id == first_id))
        connection.execute(sa.update(FLOWS).where(FLOWS.c.id == first_id).values(next_run_at=PAST))
    engine.dispose()
