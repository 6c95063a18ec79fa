"""Worker processes of Celery: beside plain Celery, and beside as many machines that beat."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from time import perf_counter

import sqlalchemy as sa

from .bench import Bench, call, in_turn
from .databases import AMQP_URL, REDIS_URL, MissingError, require_rabbitmq, require_redis
from .growth import KIND, nth
from .peers import PEERS
from .peers.tasks import wait_for
from .processes import run_all
from .project import RUN_COLUMNS, beat, count_rows, load_flows, make_due
from .report import Bar
from .serving import Server

HANDLERS = {"noop": "flows that do nothing", "inserting": "flows that insert one row"}
PLAIN = next(peer for peer in PEERS if (peer.module, peer.variant) == ("celery5", "apply_async"))
PLAIN_CALLS = {"noop": "throughput", "inserting": "inserting"}
# The queues of plain Celery, and of the rendered project.
QUEUES = ("celery", "data_flows")
# The `heartbeat.workers` of a machine that beats; 4 is the default.
THREADS = (1, 4)
PLAIN_LIMIT = 1.0
# So many runs for each process of a worker: each opens its connections.
WARM_UP = 5
# The seconds from one beat to the next, as of `heartbeat beat --every 2s`.
EVERY = 2.0
WORKER_LOG = "worker.log"
OURS, THEIRS = "**this project**, Celery workers", "plain Celery, SQL result backend"
SENT = (
    "Runs a second until the last outcome is in the database. All processes, the broker and the "
    "database share this machine's cores, so that no row can grow beyond them. A machine that "
    "beats is a process that is served, with so many threads (`heartbeat.workers`)."
)


@dataclass(frozen=True)
class Broker:
    """A broker: its name, its URL, and a function that empties it."""

    name: str
    url: str
    empty: Callable[[], None]


BROKERS = (
    Broker("Redis", REDIS_URL, require_redis),
    Broker("RabbitMQ", AMQP_URL, partial(require_rabbitmq, *QUEUES)),
)


@dataclass(frozen=True)
class Deployment:
    """The project with its flows in a database; its processes start with each measurement."""

    bench: Bench
    url: str
    engine: sa.Engine
    handler: str
    count: int

    def handed_over(self, broker: Broker, processes: int) -> list[float]:
        """Hand all runs to a worker with so many processes; return the runs a second."""
        broker.empty()
        project = self.bench.project
        celery = {"executor": "celery", "celery_broker_url": broker.url}
        command = [project.command("celery"), "-A", "data_flows.heartbeat.optional.celery.worker"]
        command += ["worker", "--concurrency", str(processes)]
        environment = project.environment(self.url, config="production.ini", **celery)
        with (
            project.served(self.url, wait=0, **celery) as server,
            started(command, project.folder, environment) as worker,
        ):
            self.hand_over(server, worker, WARM_UP * processes)
            return [self.count / self.hand_over(server, worker, self.count)]

    def hand_over(self, server: Server, worker: subprocess.Popen[bytes], count: int) -> float:
        """Beat with so many flows due; return the seconds until all have succeeded.

        On a busy machine the broker may not take all in the two seconds of a beat.
        """
        make_due(self.engine, first=count)
        succeeded = sa.select(sa.func.count()).where(RUN_COLUMNS.c.status == "success")
        beaten = -inf

        def ended() -> int:
            nonlocal beaten
            if perf_counter() - beaten > EVERY:
                beaten = perf_counter()
                beat(server)
            if worker.poll() is not None:
                log = (self.bench.project.folder / WORKER_LOG).read_text()
                raise RuntimeError(f"The worker has ended: {log[-2000:]}")
            return look.scalar(succeeded) or 0

        with self.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as look:
            began = perf_counter()
            wait_for(ended, count)
            seconds = perf_counter() - began
        self.check(count)
        return seconds

    def beaten(self, processes: int, threads: int) -> list[float]:
        """Beat so many processes with so many threads at once; return the runs a second."""
        with ExitStack() as kept:
            served = self.bench.project.served
            servers = [
                kept.enter_context(served(self.url, workers=threads)) for _ in range(processes)
            ]
            for count in (WARM_UP * processes * threads, self.count):
                make_due(self.engine, first=count)
                seconds = run_all(self.engine, servers, count)
                self.check(count)
        return [self.count / seconds]

    def check(self, count: int) -> None:
        """Raise RuntimeError unless the flows have inserted their rows."""
        wanted = count if self.handler == "inserting" else 0
        if count_rows(self.engine) != wanted:
            raise RuntimeError(f"The flows inserted {count_rows(self.engine)} rows: not {wanted}")


@contextmanager
def started(
    command: list[str], folder: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a worker, and stop it at the end."""
    with (folder / WORKER_LOG).open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def deployment(bench: Bench, handler: str, count: int) -> Iterator[Deployment]:
    """Create a database with so many flows."""
    with bench.database(KIND) as url:
        engine = bench.project.migrate(url)
        with bench.project.served(url) as server:
            beat(server)  # registers the flows
        load_flows(engine, count, handler)
        try:
            yield Deployment(bench, url, engine, handler, count)
        finally:
            engine.dispose()


def plain(bench: Bench, broker: Broker, handler: str, processes: int) -> list[float]:
    """Return the runs a second of plain Celery with a worker of so many processes."""
    broker.empty()
    count = bench.sizes.handed
    with bench.environment(PLAIN) as environment:
        environment |= {"BENCH_WORKERS": str(processes), "BENCH_BROKER": broker.url}
        seconds = call(PLAIN, environment, "prepare", f"{PLAIN_CALLS[handler]}={count}")
    return [count / float(seconds)]


def workers(bench: Bench) -> None:
    """Measure runs a second with each number of processes, and how they grow."""
    brokers = []
    for broker in BROKERS:
        try:
            broker.empty()
            brokers.append(broker)
        except MissingError as error:
            bench.report.note(f"Workers by {broker.name} were not measured: {error}.")
    for handler, flows in HANDLERS.items():
        measure(bench, brokers, handler, flows)


def measure(bench: Bench, brokers: list[Broker], handler: str, flows: str) -> None:
    """Measure the flows of one handler in turn, and add their table and bars."""
    sizes = bench.sizes
    with deployment(bench, handler, sizes.handed) as here:
        works: dict[str, Callable[[], list[float]]] = {}
        for processes in sizes.processes:
            for broker in brokers:
                end = f", {broker.name}, {processes}"
                works[OURS + end] = partial(here.handed_over, broker, processes)
                works[THEIRS + end] = partial(plain, bench, broker, handler, processes)
            for threads in THREADS:
                name = f"{beating(threads)}, {processes}"
                works[name] = partial(here.beaten, processes, threads)
        found, missing = in_turn(sizes.few_rounds, works)
    measured = {name: nth(rounds, 0) for name, rounds in found.items()}
    rows = [f"{side}, {broker.name}" for broker in brokers for side in (OURS, THEIRS)]
    rows += [beating(threads) for threads in THREADS]
    cells = [
        [row, *(str(measured.get(f"{row}, {number}", "-")) for number in sizes.processes)]
        for row in rows
    ]
    head = [flows, *(f"{number} process{'es' * (number > 1)}" for number in sizes.processes)]
    bench.report.add_section(f"Worker processes: {flows}", SENT, head, cells)
    for broker in brokers:
        for number in sizes.processes:
            names = [f"{side}, {broker.name}, {number}" for side in (OURS, THEIRS)]
            ours, theirs = (measured.get(name) for name in names)
            reasons = [missing[name] for name in names if name in missing]
            ratio = ours / theirs if ours and theirs else reasons[0]
            text = f"{flows}, {number} worker process{'es' * (number > 1)} by {broker.name}"
            text += ", beside plain Celery"
            bench.report.bars.append(Bar("9", text, PLAIN_LIMIT, ratio, at_least=True))


def beating(threads: int) -> str:
    """Return the name of the row of machines that beat."""
    return f"**this project**, machines that beat, threads: {threads}"
