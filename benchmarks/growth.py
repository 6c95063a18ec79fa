"""What grows and must not: a run's cost, a beat's memory; and two processes beside one."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from .bench import Bench, in_turn, say
from .columns import Stand, stand
from .correctness import read
from .databases import allow_recursion, numbers, settle
from .project import (
    FLOW_COLUMNS,
    OURS,
    RUN_COLUMNS,
    beat,
    count_runs,
    last_run,
    load_flows,
    make_due,
    run_all_due,
)
from .report import Bar, Measured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .serving import Server

KIND = "postgresql"
COST_LIMIT, HISTORY_LIMIT, MEMORY_LIMIT, TWO_LIMIT = 1.2, 1.15, 1.2, 1.5
# Of so many beats with few flows due the median is taken, for a beat with many.
SMALL_BEATS = 15
HISTORY_BATCH = 100_000
DAYS = 29  # what is older, beats would prune


def growth(bench: Bench) -> None:
    """Measure what more flows due, more history and more flows at once cost."""
    cost_of_many(bench)
    cost_of_history(bench)
    memory(bench)


def cost_per_run(here: Stand, count: int, *, beats: int = 1, after: int = 0) -> list[float]:
    """Give milliseconds per run, of so many beats with `count` flows due."""
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
            bench.sizes.long_rounds,
            {
                "few due": lambda: cost_per_run(small, few, beats=SMALL_BEATS),
                "many due": lambda: cost_per_run(large, many),
            },
        )
    ratio = middle(found["many due"]) / middle(found["few due"])
    text = f"cost per run with {many:,} flows due, beside {few:,}"
    bench.report.bars.append(Bar("4", text, COST_LIMIT, ratio))
    bench.report.note(
        f"A run cost {middle(found['few due'])} ms with {few:,} flows due, "
        f"{middle(found['many due'])} ms with {many:,}."
    )


def cost_of_history(bench: Bench) -> None:
    """Compare the cost of a run beside a long history with that beside a short one."""
    due = bench.sizes.due
    with ExitStack() as kept:
        small, large = stand(bench, kept, KIND, due), stand(bench, kept, KIND, due)
        load_history(small.engine, bench.sizes.history_small, bench.sizes.history_seconds)
        rows = load_history(large.engine, bench.sizes.history, bench.sizes.history_seconds)
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
    text = f"cost per run with {rows:,} rows of history, beside {bench.sizes.history_small:,}"
    bench.report.bars.append(Bar("4", text, HISTORY_LIMIT, ratio))


def load_history(engine: sa.Engine, rows: int, seconds: float) -> int:
    """Insert successful runs until there are so many or the time is up; give how many there are."""
    table, deadline, loaded = RUN_COLUMNS, time.monotonic() + seconds, 0
    with engine.connect() as connection:
        chosen = sa.select(sa.func.min(FLOW_COLUMNS.c.id), sa.func.count())
        first, flows = connection.execute(chosen.where(FLOW_COLUMNS.c.name.startswith(OURS))).one()
    began = datetime.now(UTC) - timedelta(days=DAYS)
    step = DAYS * 86_400 * flows / rows
    while loaded < rows and time.monotonic() < deadline:
        size = min(HISTORY_BATCH, rows - loaded)
        number = numbers(size)
        nth = number.c.i + (loaded - 1)
        # Each round gives all flows a run, as they would have had over that time.
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
                sa.insert(table).from_select(list(values), sa.select(*values.values()))
            )
        loaded += size
        if loaded % (10 * HISTORY_BATCH) == 0:
            say(f"{loaded:,} rows of history")
    settle(engine)
    return loaded


def memory(bench: Bench) -> None:
    """Compare the peak memory of fresh processes, after a beat with many and with few flows due."""
    many, few = bench.sizes.grown, bench.sizes.small

    def work(count: int) -> list[float]:
        with ExitStack() as kept:
            here = stand(bench, kept, KIND, count)
            make_due(here.engine)
            run_all_due(here.server, here.engine, count)
            return [here.server.peak_memory]

    found, _ = in_turn(
        bench.sizes.long_rounds,
        {"memory, few due": lambda: work(few), "memory, many due": lambda: work(many)},
    )
    least, most = middle(found["memory, few due"]), middle(found["memory, many due"])
    text = f"peak memory of a beat with {many:,} flows due, beside {few:,}"
    bench.report.bars.append(Bar("4", text, MEMORY_LIMIT, most / least))
    bench.report.note(f"Peak memory: {least} MiB with {few:,} flows due, {most} MiB with {many:,}.")


def middle(rounds: Sequence[Sequence[float]]) -> Measured:
    """Give the median of each round."""
    return Measured(tuple(Measured(tuple(values)).median for values in rounds))


def side_by_side(bench: Bench) -> None:
    """Compare two processes with one, on one database, where flows wait 10 ms each."""
    count, traces = bench.sizes.waiting, bench.folder / "waiting"
    with ExitStack() as kept:
        url = kept.enter_context(bench.database(KIND))
        engine = bench.project.migrate(url)
        kept.callback(engine.dispose)
        served = bench.project.served
        servers = [kept.enter_context(served(url, traces=traces)) for _ in range(2)]
        for server in servers:
            beat(server)
        load_flows(engine, count, "waiting")
        twice = 0

        def work(together: list[Server]) -> list[float]:
            nonlocal twice
            make_due(engine)
            traces.unlink(missing_ok=True)
            with ThreadPoolExecutor(len(together)) as pool:
                began = time.perf_counter()
                list(pool.map(beat, together))
                seconds = time.perf_counter() - began
            if count_runs(engine) != {"success": count}:
                raise RuntimeError(f"{count} flows were due, and there are {count_runs(engine)}")
            twice += sum(number > 1 for number in Counter(read(traces)).values())
            return [count / seconds]

        for server in servers:
            work([server])
        found, _ = in_turn(
            bench.sizes.rounds,
            {"one process": lambda: work(servers[:1]), "two processes": lambda: work(servers)},
        )
    ratio = middle(found["two processes"]) / middle(found["one process"])
    text = f"two processes beside one, flows that wait 10 ms (run twice: {twice})"
    bench.report.bars.append(
        Bar("5", text, TWO_LIMIT, ratio if not twice else f"{twice} ran twice", at_least=True)
    )
