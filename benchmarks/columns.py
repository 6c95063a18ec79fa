"""The columns that are times: throughput, a single task, and a tick with nothing due."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from .bench import COLUMNS, Bench, in_turn, say
from .databases import KINDS, MissingError
from .peers import PEERS, Peer
from .project import beat, count_rows, load_flows, make_due, run_all_due
from .report import Bar, Measured

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy as sa

    from .serving import Server

    Works = dict[str, Callable[[], list[float]]]

RUNS_A_SECOND, INSERTING, RECORDED, ONE, TICK = COLUMNS[:5]
NAMES = {"postgresql": "PostgreSQL", "mysql": "MariaDB", "sqlite": "SQLite"}
ROWS = {kind: f"**this project**, {name}" for kind, name in NAMES.items()}
VIEWS = {
    "bare": "Pyramid view under waitress, bare",
    "select": "Pyramid view under waitress, pyramid_tm and SELECT 1",
    "insert": "Pyramid view under waitress, inserts and commits one row",
}
# A queue that starts 8 tasks a second needs minutes for the work of seconds.
SLOW_QUEUES = {("dbos3", "queue"): 40}
GROWN_LIMIT = 1.1
IDLE_BESIDE_VIEW, ONE_BESIDE_VIEW = 1.5, 4.0
WARM_UP_TICKS = 3
# Celery's beat takes seconds to look at a million tasks.
TICKS_OF_LARGE_SCHEDULES = 10


@dataclass(frozen=True)
class Stand:
    """The project, served on a database that the benchmarks change directly."""

    server: Server
    engine: sa.Engine

    def beats(self, times: int) -> list[float]:
        """Send beats; return the milliseconds of each."""
        return [beat(self.server)[0] * 1000 for _ in range(times)]

    def single(self, times: int) -> list[float]:
        """Send beats with one flow due; return the milliseconds of each."""
        taken = []
        for _ in range(times):
            make_due(self.engine, settled=False)
            taken.append(run_all_due(self.server, self.engine, 1) * 1000)
        return taken

    def rate(self, count: int, inserted: int) -> list[float]:
        """Send a beat with `count` flows due; return the runs a second."""
        make_due(self.engine)
        seconds = run_all_due(self.server, self.engine, count)
        if count_rows(self.engine) != inserted:
            raise RuntimeError(f"The flows inserted {count_rows(self.engine)} rows: not {inserted}")
        return [count / seconds]


def stand(bench: Bench, kept: ExitStack, kind: str, flows: int, handler: str = "noop") -> Stand:
    """Serve the project on a database with so many flows, until `kept` is closed."""
    url = kept.enter_context(bench.database(kind))
    engine = bench.project.migrate(url)
    kept.callback(engine.dispose)
    server = kept.enter_context(bench.project.served(url))
    made = Stand(server, engine)
    beat(server)  # registers the flows, and opens the first connections
    load_flows(engine, flows, handler)
    return made


def stands(bench: Bench, kept: ExitStack, flows: int, handler: str = "noop") -> dict[str, Stand]:
    """Serve the project on each available database."""
    made = {}
    for kind in KINDS:
        try:
            made[kind] = stand(bench, kept, kind, flows, handler)
        except MissingError as error:
            bench.report.put(ROWS[kind], RECORDED, f"- ({error})")
    return made


def peers_with(bench: Bench, column: str) -> list[Peer]:
    """Return the chosen peers that have a column."""
    return [peer for peer in bench.peers if column in peer.columns]


def throughput(bench: Bench) -> None:
    """Measure runs a second of flows that do nothing."""
    measure_rates(bench, "throughput", RUNS_A_SECOND, ("1", "throughput"))
    dropped = [peer for peer in bench.peers if peer.module == "apscheduler3"]
    if dropped:
        count = bench.sizes.due
        number = bench.call(dropped[0], "prepare", f"misfires={count}")
        bench.report.note(
            "APScheduler drops a job as a misfire that starts more than a second late: "
            f"{number} of {count} by default. For the table, this limit is switched off."
        )


def inserting(bench: Bench) -> None:
    """Measure runs a second of flows that insert one row."""
    measure_rates(bench, "inserting", INSERTING, ("2", "throughput of flows that insert one row"))


def measure_rates(bench: Bench, name: str, column: str, bar: tuple[str, str]) -> None:
    """Measure runs a second of the project and of the peers, and the bars beside them.

    Peers without a bar take turns among themselves, and fewer of them.
    """
    count, handler = bench.sizes.due, "inserting" if name == "inserting" else "noop"
    peers = peers_with(bench, name)
    works: Works = {}
    others: Works = {}
    with ExitStack() as kept:
        for kind, here in stands(bench, kept, count, handler).items():
            works[ROWS[kind]] = partial(here.rate, count, count if handler == "inserting" else 0)
            works[ROWS[kind]]()  # the first large beat of a process opens its connections
        for peer in peers:
            group = works if peer.at_least else others
            group[peer.label] = partial(peer_rate, bench, peer, name)
        found, missing = in_turn(bench.sizes.rounds, works)
    found_others, missing_others = in_turn(bench.sizes.few_rounds, others)
    measured = {
        row: Measured(tuple(value for (value,) in rounds))
        for row, rounds in (found | found_others).items()
    }
    missing |= missing_others
    recorded = dict.fromkeys(ROWS.values(), "each run, with what the flow wrote")
    recorded |= {peer.label: peer.recorded for peer in peers}
    for row, text in recorded.items():
        if row in measured:
            bench.report.put(row, column, measured[row])
            bench.report.put(row, RECORDED, text)
        elif row in missing:
            bench.report.put(row, column, f"- ({missing[row]})")
    number, measurement = bar
    for peer in (peer for peer in PEERS if peer.at_least and name in peer.columns):
        ours, theirs = measured.get(ROWS[peer.kind]), measured.get(peer.label)
        ratio = ours / theirs if ours and theirs else missing.get(peer.label, "not in this run")
        text = f"{measurement} on {NAMES[peer.kind]}, beside: {peer.label}"
        bench.report.bars.append(Bar(number, text, peer.at_least, ratio, at_least=True))


def peer_rate(bench: Bench, peer: Peer, function: str) -> list[float]:
    """Return a peer's runs a second."""
    count = min(bench.sizes.due, SLOW_QUEUES.get((peer.module, peer.variant), bench.sizes.due))
    return [count / float(bench.call(peer, "prepare", f"{function}={count}"))]


def single(bench: Bench) -> None:
    """Measure one due task, beside a view that inserts a row."""
    times = bench.sizes.singles
    with ExitStack() as kept:
        works: Works = {
            ROWS[kind]: partial(here.single, times) for kind, here in stands(bench, kept, 1).items()
        }
        found, missing = in_turn(bench.sizes.rounds, works | view_works(bench, kept, times))
    peers: Works = {
        peer.label: partial(peer_single, bench, peer, times) for peer in peers_with(bench, "one")
    }
    found_peers, missing_peers = in_turn(bench.sizes.few_rounds, peers)
    measured = medians(found | found_peers)
    for row, time in measured.items():
        bench.report.put(row, ONE, time)
    for row, reason in (missing | missing_peers).items():
        bench.report.put(row, ONE, f"- ({reason})")
    ours, view = measured.get(ROWS["postgresql"]), measured.get(VIEWS["insert"])
    ratio = ours / view if ours and view else "not in this run"
    text = "one due flow, beside a view that inserts and commits one row"
    bench.report.bars.append(Bar("4", text, ONE_BESIDE_VIEW, ratio))


def peer_single(bench: Bench, peer: Peer, times: int) -> list[float]:
    """Return the milliseconds of each of a peer's single tasks."""
    few = 3 if peer.variant == "queue" else times
    return [float(ms) for ms in bench.call(peer, "prepare", f"one={few}")]


def view_works(bench: Bench, kept: ExitStack, times: int) -> Works:
    """Serve the views; return a function for each that measures milliseconds."""
    try:
        server = kept.enter_context(
            bench.starter.served(kept.enter_context(bench.database("postgresql")))
        )
    except MissingError:
        return {}
    for name in VIEWS:
        server.time(f"/{name}")

    def work(name: str) -> list[float]:
        return [server.time(f"/{name}") * 1000 for _ in range(times)]

    return {label: partial(work, name) for name, label in VIEWS.items()}


def medians(found: dict[str, list[list[float]]]) -> dict[str, Measured]:
    """Return the median of each round."""
    return {
        name: Measured(tuple(statistics.median(values) for values in rounds))
        for name, rounds in found.items()
    }


def tick(bench: Bench) -> None:
    """Measure a tick with nothing due, with schedules of three sizes, and beats beside a view."""
    times, rounds, sizes = bench.sizes.requests, bench.sizes.rounds, bench.sizes.schedules
    with ExitStack() as kept:
        works: Works = {}
        for rows in sizes:
            say(f"loading {rows} flows")
            for kind, here in stands(bench, kept, rows).items():
                here.beats(times)
                works[f"{kind} {rows}"] = partial(here.beats, times)
        works |= view_works(bench, kept, times)
        measured = medians(in_turn(rounds, works)[0])
    for kind, row in ROWS.items():
        cells = [measured.get(f"{kind} {rows}") for rows in sizes]
        if all(cells):
            bench.report.put(row, TICK, " / ".join(map(str, cells)))
        first, last = cells[0], cells[-1]
        ratio = last / first if first and last else "not in this run"
        text = f"idle beat with {sizes[-1]:,} flows on {NAMES[kind]}, beside {sizes[0]:,}"
        bench.report.bars.append(Bar("3", text, GROWN_LIMIT, ratio))
    for label in VIEWS.values():
        if label in measured:
            bench.report.put(label, TICK, measured[label])
    view, ours = measured.get(VIEWS["insert"]), measured.get(f"postgresql {sizes[0]}")
    ratio = ours / view if ours and view else "not in this run"
    text = "idle beat over HTTP, beside a view that inserts and commits one row"
    bench.report.bars.append(Bar("3", text, IDLE_BESIDE_VIEW, ratio))
    for peer in peers_with(bench, "tick"):
        measure_ticks(bench, peer)


def measure_ticks(bench: Bench, peer: Peer) -> None:
    """Measure a peer's tick, with each schedule in a process of its own."""
    cells = []
    for rows in bench.sizes.schedules:
        is_large = rows > bench.sizes.schedules[0]
        times = TICKS_OF_LARGE_SCHEDULES if is_large else bench.sizes.requests
        try:
            calls = "prepare", f"load={rows}", f"tick={WARM_UP_TICKS}", f"tick={times}"
            values = bench.call(peer, *calls)
        except MissingError as error:
            bench.report.put(peer.label, TICK, f"- ({error})")
            return
        cells.append(str(Measured(tuple(values))))
        say(f"{peer.label}: a tick with {rows}")
    bench.report.put(peer.label, TICK, " / ".join(cells))
