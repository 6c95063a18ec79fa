"""Two processes on one database: beside one process, and with slow flows among short ones."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import sqlalchemy as sa

from .bench import Bench, in_turn
from .correctness import read
from .databases import settle
from .growth import KIND, middle, nth
from .project import (
    FLOW_COLUMNS,
    OURS,
    RUN_COLUMNS,
    beat,
    count_runs,
    load_flows,
    make_due,
)
from .report import Bar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .serving import Server

TWO_LIMITS = {"waiting": 1.7, "noop": 1.0}
FAIRNESS_LIMIT = 1.0


def processes(bench: Bench) -> None:
    """Measure two processes."""
    two_beside_one(bench, "waiting", bench.sizes.waiting, "flows that wait 10 ms")
    two_beside_one(bench, "noop", bench.sizes.due, "flows that do nothing")
    fairness(bench)


@contextmanager
def two_servers(
    bench: Bench, count: int, handler: str, traces: Path
) -> Iterator[tuple[sa.Engine, list[Server]]]:
    """Serve the project twice on one database with so many flows."""
    with ExitStack() as kept:
        url = kept.enter_context(bench.database(KIND))
        engine = bench.project.migrate(url)
        kept.callback(engine.dispose)
        served = bench.project.served
        servers = [kept.enter_context(served(url, traces=traces)) for _ in range(2)]
        for server in servers:
            beat(server)
        load_flows(engine, count, handler)
        yield engine, servers


def run_all(engine: sa.Engine, servers: list[Server], count: int) -> float:
    """Send a beat to each server at once; return the seconds until all runs are recorded."""
    with ThreadPoolExecutor(len(servers)) as pool:
        began = time.perf_counter()
        list(pool.map(beat, servers))
        seconds = time.perf_counter() - began
    if count_runs(engine) != {"success": count}:
        raise RuntimeError(f"{count} flows were due, but the runs are {count_runs(engine)}")
    return seconds


def two_beside_one(bench: Bench, handler: str, count: int, flows: str) -> None:
    """Compare the runs a second of two processes with those of one."""
    traces, twice = bench.folder / handler, 0
    with two_servers(bench, count, handler, traces) as (engine, servers):

        def work(together: list[Server]) -> list[float]:
            nonlocal twice
            make_due(engine)
            traces.unlink(missing_ok=True)
            seconds = run_all(engine, together, count)
            twice += sum(number > 1 for number in Counter(read(traces)).values())
            return [count / seconds]

        for server in servers:
            work([server])
        found, _ = in_turn(
            bench.sizes.rounds,
            {
                f"one process, {flows}": lambda: work(servers[:1]),
                f"two processes, {flows}": lambda: work(servers),
            },
        )
    one, two = (middle(rates) for rates in found.values())
    ratio = f"{twice} ran twice" if twice else two / one
    text = f"two processes beside one, {flows}"
    if handler == "waiting":
        text += f" (run twice: {twice})"
    bench.report.bars.append(Bar("6", text, TWO_LIMITS[handler], ratio, at_least=True))
    bench.report.note(f"{flows.capitalize()}: {one} runs/s by one process, {two} by two.")


def make_due_in_order(engine: sa.Engine) -> None:
    """Make each due flow due a little later than the one before it."""
    later = sa.func.make_interval(0, 0, 0, 0, 0, 0, FLOW_COLUMNS.c.id * 0.01)
    is_ours = FLOW_COLUMNS.c.name.startswith(OURS)
    with engine.begin() as connection:
        connection.execute(
            sa.update(FLOW_COLUMNS)
            .where(is_ours)
            .values(next_run_at=FLOW_COLUMNS.c.next_run_at + later)
        )
    settle(engine)


def fairness(bench: Bench) -> None:
    """Compare the end of the last short flow with that of the first slow one among them.

    The first flow is slow; the other slow ones follow at equal distances.
    """
    short, slow = bench.sizes.due, bench.sizes.slow
    count = short + slow
    names = [f"{OURS}{number}" for number in range(1, count, count // slow)][:slow]
    is_slow = FLOW_COLUMNS.c.name.in_(names)
    traces = bench.folder / "fairness"
    with two_servers(bench, count, "noop", traces) as (engine, servers):
        with engine.begin() as connection:
            connection.execute(sa.update(FLOW_COLUMNS).where(is_slow).values(handler="slow"))
        runs = RUN_COLUMNS.join(FLOW_COLUMNS, FLOW_COLUMNS.c.id == RUN_COLUMNS.c.data_flow_id)
        moments = sa.select(
            sa.func.min(RUN_COLUMNS.c.started_at),
            sa.func.max(RUN_COLUMNS.c.ended_at).filter(~is_slow),
            sa.func.min(RUN_COLUMNS.c.ended_at).filter(is_slow),
        ).select_from(runs)

        def work() -> list[float]:
            make_due(engine)
            make_due_in_order(engine)
            run_all(engine, servers, count)
            with engine.connect() as connection:
                began, *ends = connection.execute(moments).one()
            return [(end - began).total_seconds() for end in ends]

        found, _ = in_turn(bench.sizes.few_rounds, {"slow among short": work})
    last_short, first_slow = (nth(found["slow among short"], number) for number in range(2))
    text = f"end of the last of {short:,} short flows, beside the first of {slow} of 5 s among them"
    bench.report.bars.append(Bar("8", text, FAIRNESS_LIMIT, last_short / first_slow))
    bench.report.note(
        f"Among {slow} flows of 5 s, in two processes, the last of {short:,} short flows ended "
        f"{last_short} s after the first run had started; the first slow one {first_slow} s after."
    )
