"""The cost of a scrape by Prometheus with a long history, beside that with a short one."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import sqlalchemy as sa

from .bench import Bench, in_turn, say
from .columns import NAMES, Stand, stand
from .databases import KINDS, MissingError, allow_recursion, numbers, settle
from .growth import middle
from .project import FLOW_COLUMNS, OPERATOR_TOKEN, OURS, RUN_COLUMNS
from .report import Bar

if TYPE_CHECKING:
    from collections.abc import Callable

FLOWS = 100
SCRAPE_LIMIT = 1.2
BATCH = 250_000
HEADERS = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}


def scrapes(bench: Bench) -> None:
    """Measure scrapes of `/heartbeat/metrics` on each database."""
    for kind in KINDS:
        try:
            scrapes_of(bench, kind)
        except MissingError as error:
            say(f"{NAMES[kind]}: left out, {error}")


def scrapes_of(bench: Bench, kind: str) -> None:
    """Measure scrapes on one database."""
    many, few = bench.sizes.scraped, bench.sizes.scraped_small
    with ExitStack() as kept:
        long, short = (stand(bench, kept, kind, FLOWS) for _ in range(2))
        load_runs(short.engine, few)
        load_runs(long.engine, many)
        times = bench.sizes.requests
        works: dict[str, Callable[[], list[float]]] = {
            "short": partial(scrape, short, times),
            "long": partial(scrape, long, times),
        }
        for work in works.values():
            work()
        found, _ = in_turn(bench.sizes.rounds, works)
    beside, measured = middle(found["short"]), middle(found["long"])
    text = f"scrape with {many:,} runs on {NAMES[kind]}, beside {few:,}"
    bench.report.bars.append(Bar("9", text, SCRAPE_LIMIT, measured / beside))
    bench.report.note(
        f"A scrape of {FLOWS} flows on {NAMES[kind]} took {beside} ms with {few:,} runs, "
        f"{measured} ms with {many:,}."
    )


def scrape(here: Stand, times: int) -> list[float]:
    """Return the milliseconds that each of so many scrapes took."""
    return [here.server.time("/heartbeat/metrics", HEADERS) * 1000 for _ in range(times)]


def load_runs(engine: sa.Engine, rows: int) -> None:
    """Insert so many runs that have ended, one in ten of them failed."""
    with engine.connect() as connection:
        chosen = sa.select(sa.func.min(FLOW_COLUMNS.c.id), sa.func.count())
        first, flows = connection.execute(chosen.where(FLOW_COLUMNS.c.name.startswith(OURS))).one()
    moment = datetime.now(UTC)
    for loaded in range(0, rows, BATCH):
        size = min(BATCH, rows - loaded)
        row = numbers(size)
        values = {
            "data_flow_id": first + row.c.i % flows,
            "status": sa.case((row.c.i % 10 == 0, "failed"), else_="success"),
            "trigger": sa.literal("manual"),
            "duration": sa.literal(0.001),
        }
        times = ("started_at", "ended_at", "created_at", "updated_at")
        values |= dict.fromkeys(times, sa.literal(moment, sa.DateTime(timezone=True)))
        with engine.begin() as connection:
            allow_recursion(connection)
            connection.execute(
                sa.insert(RUN_COLUMNS).from_select(list(values), sa.select(*values.values()))
            )
        say(f"{loaded + size:,} runs")
    settle(engine)
