"""The columns that are times: throughput, a single task, and a look with nothing due."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from .bench import COLUMNS, Bench, in_turn, say
from .databases import KINDS, MissingError
from .peers import PEERS, Peer
from .project import beat, load_flows, make_due, run_all_due
from .report import Bar, Measured

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy as sa

    from .serving import Server

RUNS_A_SECOND, RECORDED, ONE, TICK = COLUMNS[:4]
NAMES = {"postgresql": "PostgreSQL", "mysql": "MariaDB", "sqlite": "SQLite"}
ROWS = {kind: f"**this project**, {name}" for kind, name in NAMES.items()}
VIEWS = {
    "bare": "Pyramid view under waitress, bare",
    "select": "Pyramid view under waitress, pyramid_tm and SELECT 1",
    "insert": "Pyramid view under waitress, inserts and commits one row",
}
# A queue that starts 8 tasks a second needs minutes for what others do in one.
MOST = {("dbos3", "queue"): 40}
# (what is compared with, at least this ratio, whose database)
THROUGHPUT_BARS = (
    ("Procrastinate", 2.0, "postgresql"),
    ("Celery, beat, Redis, SQL result backend", 3.0, "postgresql"),
    ("session + zope.sqlalchemy, load-modify-flush, one_by_one", 5.0, "postgresql"),
    ("SQLAlchemy Core, one claim, finishes one by one", 0.8, "postgresql"),
    ("sqlite3, WAL, FULL", 0.2, "sqlite"),
    ("SQLAlchemy Core on MariaDB, finishes one by one", 0.6, "mysql"),
)
SAME = 1.15
BESIDE_VIEW, ONE_BESIDE_VIEW = 2.0, 6.0


@dataclass(frozen=True)
class Stand:
    """The project, served on a database that can be arranged."""

    server: Server
    engine: sa.Engine

    def beats(self, times: int) -> list[float]:
        """Send beats; give the milliseconds of each."""
        return [beat(self.server)[0] * 1000 for _ in range(times)]

    def single(self, times: int) -> list[float]:
        """Send beats with one flow due; give the milliseconds of each."""
        taken = []
        for _ in range(times):
            make_due(self.engine, settled=False)
            taken.append(run_all_due(self.server, self.engine, 1) * 1000)
        return taken


def stand(bench: Bench, kept: ExitStack, kind: str, flows: int) -> Stand:
    """Serve the project on a database with so many flows, for as long as `kept` lasts."""
    url = kept.enter_context(bench.database(kind))
    engine = bench.project.migrate(url)
    kept.callback(engine.dispose)
    server = kept.enter_context(bench.project.served(url))
    made = Stand(server, engine)
    beat(server)  # registers, and opens the first connections
    load_flows(engine, flows)
    return made


def stands(bench: Bench, kept: ExitStack, flows: int) -> dict[str, Stand]:
    """Serve the project on each database that there is."""
    made = {}
    for kind in KINDS:
        try:
            made[kind] = stand(bench, kept, kind, flows)
        except MissingError as error:
            bench.report.put(ROWS[kind], RECORDED, f"- ({error})")
    return made


def peers_with(bench: Bench, column: str) -> list[Peer]:
    """Give the chosen peers of which a column is measured."""
    return [peer for peer in bench.peers if column in peer.columns]


def rates(bench: Bench, peer: Peer) -> Callable[[], list[float]]:
    """Give what measures a peer's runs a second, once."""
    count = min(bench.sizes.due, MOST.get((peer.module, peer.variant), bench.sizes.due))

    def work() -> list[float]:
        return [count / float(bench.ask(peer, "prepare", f"throughput={count}"))]

    return work


def throughput(bench: Bench) -> None:
    """Measure runs a second, and the bars that are made of them."""
    count, rounds = bench.sizes.due, bench.sizes.rounds
    with ExitStack() as kept:
        works: dict[str, Callable[[], list[float]]] = {}
        for kind, made in stands(bench, kept, count).items():

            def work(made: Stand = made) -> list[float]:
                make_due(made.engine)
                return [count / run_all_due(made.server, made.engine, count)]

            work()  # the first beat of a process opens its connections
            works[ROWS[kind]] = work
        works |= {peer.label: rates(bench, peer) for peer in peers_with(bench, "throughput")}
        found, missing = in_turn(rounds, works)
    measured = {name: Measured(tuple(value for (value,) in all_)) for name, all_ in found.items()}
    recorded = {peer.label: peer.recorded for peer in PEERS}
    for name, rate in measured.items():
        bench.report.put(name, RUNS_A_SECOND, rate)
        bench.report.put(name, RECORDED, recorded.get(name, "each run, with what the flow wrote"))
    for name, reason in missing.items():
        bench.report.put(name, RUNS_A_SECOND, f"- ({reason})")
    for other, limit, kind in THROUGHPUT_BARS:
        ours = measured.get(ROWS[kind])
        theirs = measured.get(other)
        ratio = ours / theirs if ours and theirs else missing.get(other, "left out of this run")
        text = f"throughput on {NAMES[kind]}, beside: {other}"
        bench.report.bars.append(Bar("1", text, limit, ratio, at_least=True))
    dropped = [peer for peer in bench.peers if peer.module == "apscheduler3"]
    if dropped:
        number = bench.ask(dropped[0], "prepare", f"misfires={count}")
        bench.report.note(
            "APScheduler drops a job as a misfire that starts more than a second late: "
            f"{number} of {count} by default. For the table that time has no limit."
        )


def single(bench: Bench) -> None:
    """Measure one due task, beside a view that inserts a row."""
    rounds, times = bench.sizes.long_rounds, max(5, bench.sizes.requests // 10)
    with ExitStack() as kept:
        made = stands(bench, kept, 1)
        works: dict[str, Callable[[], list[float]]] = {
            ROWS[kind]: partial(here.single, times) for kind, here in made.items()
        }
        works |= views_in_turn(bench, kept, times)
        for peer in peers_with(bench, "one"):

            def work(peer: Peer = peer) -> list[float]:
                few = 3 if peer.variant == "queue" else times
                return [float(ms) for ms in bench.ask(peer, "prepare", f"one={few}")]

            works[peer.label] = work
        found, missing = in_turn(rounds, works)
    measured = medians(found)
    for name, time in measured.items():
        bench.report.put(name, ONE, time)
    for name, reason in missing.items():
        bench.report.put(name, ONE, f"- ({reason})")
    ours, view = measured.get(ROWS["postgresql"]), measured.get(VIEWS["insert"])
    ratio = ours / view if ours and view else "not in this run"
    text = "one due flow, beside a view that inserts and commits one row"
    bench.report.bars.append(Bar("3", text, ONE_BESIDE_VIEW, ratio))


def views_in_turn(
    bench: Bench, kept: ExitStack, times: int
) -> dict[str, Callable[[], list[float]]]:
    """Serve the views; give what measures each, in milliseconds."""
    try:
        server = kept.enter_context(
            bench.starter.served(kept.enter_context(bench.database("postgresql")))
        )
    except MissingError:
        return {}
    for name in VIEWS:
        server.time(f"/{name}")

    def work(name: str) -> Callable[[], list[float]]:
        return lambda: [server.time(f"/{name}") * 1000 for _ in range(times)]

    return {label: work(name) for name, label in VIEWS.items()}


def medians(found: dict[str, list[list[float]]]) -> dict[str, Measured]:
    """Give the median of each round."""
    return {
        name: Measured(tuple(statistics.median(values) for values in rounds))
        for name, rounds in found.items()
    }


def tick(bench: Bench) -> None:
    """Measure a look with nothing due, over schedules of three sizes, and beats beside a view."""
    times, rounds, sizes = bench.sizes.requests, bench.sizes.rounds, bench.sizes.schedules
    with ExitStack() as kept:
        works: dict[str, Callable[[], list[float]]] = {}
        for rows in sizes:
            say(f"loading {rows} flows")
            for kind, here in stands(bench, kept, rows).items():
                here.beats(times)
                works[f"{kind} {rows}"] = partial(here.beats, times)
        works |= views_in_turn(bench, kept, times)
        measured = medians(in_turn(rounds, works)[0])
    for kind, row in ROWS.items():
        cells = [measured.get(f"{kind} {rows}") for rows in sizes]
        if all(cells):
            bench.report.put(row, TICK, " / ".join(map(str, cells)))
        first, last = cells[0], cells[-1]
        ratio = last / first if first and last else "not in this run"
        text = f"idle beat with {sizes[-1]:,} flows on {NAMES[kind]}, beside {sizes[0]:,}"
        bench.report.bars.append(Bar("2", text, SAME, ratio))
    for label in VIEWS.values():
        if label in measured:
            bench.report.put(label, TICK, measured[label])
    view, ours = measured.get(VIEWS["insert"]), measured.get(f"postgresql {sizes[0]}")
    ratio = ours / view if ours and view else "not in this run"
    text = "idle beat over HTTP, beside a view that inserts and commits one row"
    bench.report.bars.append(Bar("2", text, BESIDE_VIEW, ratio))
    for peer in peers_with(bench, "tick"):
        ask_ticks(bench, peer)


def ask_ticks(bench: Bench, peer: Peer) -> None:
    """Measure a peer's look, each size in a process of its own."""
    cells = []
    for rows in bench.sizes.schedules:
        few = 20 if rows > bench.sizes.schedules[0] else bench.sizes.requests
        try:
            values = bench.ask(peer, "prepare", f"load={rows}", "tick=5", f"tick={few}")
        except MissingError as error:
            bench.report.put(peer.label, TICK, f"- ({error})")
            return
        cells.append(str(Measured(tuple(values))))
        say(f"{peer.label}: a look at {rows}")
    bench.report.put(peer.label, TICK, " / ".join(cells))
