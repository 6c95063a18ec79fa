"""The cost of a run and the memory of a beat with more flows due, and with more history."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from .bench import Bench, in_turn, say
from .columns import GROWN_LIMIT, Stand, stand
from .databases import allow_recursion, numbers, settle
from .project import FLOW_COLUMNS, OURS, RUN_COLUMNS, last_run, make_due, run_all_due
from .report import Bar, Measured

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KIND = "postgresql"
# The median of so many beats with few flows due is compared with one beat with many.
SMALL_BEATS = 15
HISTORY_BATCH = 1_000_000
DAYS = 29  # beats would prune older runs


def growth(bench: Bench) -> None:
    """Measure the effect of more flows due, and of a longer history."""
    cost_of_many(bench)
    cost_of_history(bench)
    memory(bench)


def cost_per_run(here: Stand, count: int, *, beats: int = 1, after: int = 0) -> list[float]:
    """Return the milliseconds per run of so many beats with `count` flows due."""
    costs = []
    for _ in range(beats):
        make_due(here.engine, after=after)
        seconds = run_all_due(here.server, here.engine, count, after=after)
        costs.append(seconds * 1000 / count)
    return costs


def cost_of_many(bench: Bench) -> None:
    """Compare the cost of a run when many flows are due with that when few are."""
    many, few = bench.sizes.grown, bench.sizes.small
    with ExitStack() as kept:
        large, small = stand(bench, kept, KIND, many), stand(bench, kept, KIND, few)
        cost_per_run(small, few, beats=3)
        cost_per_run(large, many)
        found, _ = in_turn(
            bench.sizes.rounds,
            {
                "few due": lambda: cost_per_run(small, few, beats=SMALL_BEATS),
                "many due": lambda: cost_per_run(large, many),
            },
        )
    ratio = middle(found["many due"]) / middle(found["few due"])
    text = f"cost per run with {many:,} flows due, beside {few:,}"
    bench.report.bars.append(Bar("5", text, GROWN_LIMIT, ratio))
    bench.report.note(
        f"A run cost {middle(found['few due'])} ms with {few:,} flows due, "
        f"{middle(found['many due'])} ms with {many:,}."
    )


def cost_of_history(bench: Bench) -> None:
    """Compare the cost of a run beside a long history with that beside a short one."""
    due = bench.sizes.due
    with ExitStack() as kept:
        small, large = stand(bench, kept, KIND, due), stand(bench, kept, KIND, due)
        load_history(small.engine, bench.sizes.history_small)
        load_history(large.engine, bench.sizes.history)
        after = {id(here): last_run(here.engine) for here in (small, large)}

        def work(here: Stand) -> list[float]:
            return cost_per_run(here, due, after=after[id(here)])

        for here in (small, large):
            work(here)
        found, _ = in_turn(
            bench.sizes.rounds,
            {"short history": lambda: work(small), "long history": lambda: work(large)},
        )
    ratio = middle(found["long history"]) / middle(found["short history"])
    text = (
        f"cost per run with {bench.sizes.history:,} rows of history, "
        f"beside {bench.sizes.history_small:,}"
    )
    bench.report.bars.append(Bar("5", text, GROWN_LIMIT, ratio))


def load_history(engine: sa.Engine, rows: int) -> None:
    """Insert so many successful runs, spread over the last weeks."""
    with engine.connect() as connection:
        chosen = sa.select(sa.func.min(FLOW_COLUMNS.c.id), sa.func.count())
        first, flows = connection.execute(chosen.where(FLOW_COLUMNS.c.name.startswith(OURS))).one()
    began = datetime.now(UTC) - timedelta(days=DAYS)
    step = DAYS * 86_400 * flows / rows
    with without_indexes(engine):
        for loaded in range(0, rows, HISTORY_BATCH):
            size = min(HISTORY_BATCH, rows - loaded)
            nth = numbers(size).c.i + (loaded - 1)
            # Each flow in turn, as all of them would have run over that time.
            moment = sa.literal(began) + sa.func.make_interval(
                0, 0, 0, 0, 0, 0, sa.cast(sa.func.floor(nth / float(flows)) * step, sa.Double)
            )
            values = {
                "data_flow_id": first + nth % flows,
                "status": sa.literal("success"),
                "trigger": sa.literal("schedule"),
                "claim_id": sa.literal("00000000-0000-4000-8000-000000000000"),
                "worker": sa.literal("bench:1:2026-01-01T00:00:00.000000+00:00"),
                "duration": sa.literal(0.001),
                "log": sa.literal(""),
            }
            times = ("scheduled_for", "window_start", "window_end", "started_at", "ended_at")
            values |= dict.fromkeys((*times, "created_at", "updated_at"), moment)
            with engine.begin() as connection:
                allow_recursion(connection)
                connection.execute(
                    sa.insert(RUN_COLUMNS).from_select(list(values), sa.select(*values.values()))
                )
            say(f"{loaded + size:,} rows of history")
    settle(engine)


@contextmanager
def without_indexes(engine: sa.Engine) -> Iterator[None]:
    """Drop the indexes and keys of the runs on PostgreSQL, and create them again at the end.

    Millions of rows are inserted several times as fast without them.
    """
    keys = (
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE conrelid = 'data_flow_runs'::regclass AND contype IN ('u', 'f')"
    )
    indexes = (
        "SELECT relname, pg_get_indexdef(indexrelid) FROM pg_index "
        "JOIN pg_class ON pg_class.oid = indexrelid "
        "WHERE indrelid = 'data_flow_runs'::regclass AND NOT indisunique"
    )
    drop, create = [], ["SET LOCAL maintenance_work_mem = '512MB'"]
    with engine.begin() as connection:
        for name, definition in connection.exec_driver_sql(keys):
            drop.append(f"ALTER TABLE data_flow_runs DROP CONSTRAINT {name}")
            create.append(f"ALTER TABLE data_flow_runs ADD CONSTRAINT {name} {definition}")
        for name, definition in connection.exec_driver_sql(indexes):
            drop.append(f"DROP INDEX {name}")
            create.append(definition)
        for statement in drop:
            connection.exec_driver_sql(statement)
    yield
    with engine.begin() as connection:
        for statement in create:
            connection.exec_driver_sql(statement)


def memory(bench: Bench) -> None:
    """Compare the peak memory of new processes, after a beat with many and with few flows due."""
    many, few = bench.sizes.grown, bench.sizes.small

    def work(count: int) -> list[float]:
        with ExitStack() as kept:
            here = stand(bench, kept, KIND, count)
            make_due(here.engine)
            run_all_due(here.server, here.engine, count)
            return [here.server.peak_memory]

    found, _ = in_turn(
        bench.sizes.few_rounds,
        {"memory, few due": lambda: work(few), "memory, many due": lambda: work(many)},
    )
    small, large = middle(found["memory, few due"]), middle(found["memory, many due"])
    text = f"peak memory of a beat with {many:,} flows due, beside {few:,}"
    bench.report.bars.append(Bar("5", text, GROWN_LIMIT, large / small))
    bench.report.note(
        f"Peak memory: {small} MiB with {few:,} flows due, {large} MiB with {many:,}."
    )


def middle(rounds: Sequence[Sequence[float]]) -> Measured:
    """Return the median of each round."""
    return Measured(tuple(Measured(tuple(values)).median for values in rounds))


def nth(rounds: Sequence[Sequence[float]], number: int) -> Measured:
    """Return one of the values that each round measured."""
    return Measured(tuple(values[number] for values in rounds))
