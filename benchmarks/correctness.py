"""The columns of correctness: real processes, and a real `kill -9`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

import sqlalchemy as sa

from .bench import COLUMNS, Bench, call, command, say
from .columns import ROWS, peers_with
from .databases import KINDS, MissingError
from .project import RUN_COLUMNS, beat, load_flows, make_due

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .peers import Peer

TWICE, KILLED = COLUMNS[5:]
LEASE_SECONDS = 3
LANES = 4
LOOK_SECONDS = 0.1
# No more traces are expected when none has come for so long.
QUIET_SECONDS = 4.0
PATIENCE_SECONDS = 90.0


def correctness(bench: Bench) -> None:
    """Fill both columns. Nothing is timed here, so several lanes run at once."""
    lanes: dict[str, list[tuple[str, str, Callable[[], str]]]] = defaultdict(list)
    for kind in KINDS:
        row = ROWS[kind]
        lanes["ours"].append((row, TWICE, partial(run_beside, bench, kind)))
        lanes["ours"].append((row, KILLED, partial(kill_ours, bench, kind)))
    for column, name, work in ((TWICE, "twice", twice), (KILLED, "killed", killed)):
        for peer in peers_with(bench, name):
            # All of them use one Redis.
            lane = lanes["redis" if peer.redis else peer.module]
            lane.append((peer.label, column, partial(work, bench, peer)))
    with ThreadPoolExecutor(LANES) as pool:
        for cells in pool.map(drive, lanes.values()):
            for row, column, cell in cells:
                bench.report.put(row, column, cell)


def drive(lane: list[tuple[str, str, Callable[[], str]]]) -> list[tuple[str, str, str]]:
    """Do the work of a lane, one after the other; return its cells."""
    cells = []
    for row, column, work in lane:
        try:
            cell = work()
        except MissingError as error:
            cell = f"- ({error})"
        say(f"{row}: {column}: {cell}")
        cells.append((row, column, cell))
    return cells


def run_beside(bench: Bench, kind: str) -> str:
    """Send beats to two processes at once; return how many flows were called more than once."""
    count, traces = bench.sizes.twice, bench.folder / f"traces-{kind}"
    with ExitStack() as kept:
        url = kept.enter_context(bench.database(kind))
        engine = bench.project.migrate(url)
        kept.callback(engine.dispose)
        load_flows(engine, count, "waiting")
        serve = bench.project.served
        servers = [kept.enter_context(serve(url, traces=traces)) for _ in range(2)]
        for server in servers:
            beat(server)
        make_due(engine)
        with ThreadPoolExecutor(len(servers)) as pool:
            list(pool.map(beat, servers))
    return judge(read(traces), count)


def kill_ours(bench: Bench, kind: str) -> str:
    """Kill the process in a flow; return the run's outcome after the end of its lease."""
    traces = bench.folder / f"killed-{kind}"
    with ExitStack() as kept:
        url = kept.enter_context(bench.database(kind))
        engine = bench.project.migrate(url)
        kept.callback(engine.dispose)
        load_flows(engine, 1, "lingering")
        settings = {"lease": LEASE_SECONDS, "wait": 1}
        with bench.project.served(url, traces=traces, **settings) as server:
            make_due(engine)
            beat(server)
            wait_until(lambda: bool(read(traces)))
            server.kill()
        killed_at = time.monotonic()
        with (
            bench.project.served(url, traces=traces, **settings) as server,
            engine.connect() as connection,
        ):
            row = None
            while row is None:
                time.sleep(LOOK_SECONDS)
                beat(server)
                ended = sa.select(RUN_COLUMNS.c.status, RUN_COLUMNS.c.error_type)
                row = connection.execute(ended.where(RUN_COLUMNS.c.ended_at.is_not(None))).first()
                connection.rollback()
            return f"`{row[0]}`, {row[1]}, {time.monotonic() - killed_at:.0f} s after (lease 3 s)"


def twice(bench: Bench, peer: Peer) -> str:
    """Start two schedulers of a peer; return how many tasks were called more than once."""
    count, traces = bench.sizes.twice, bench.folder / f"traces-{peer.module}-{peer.variant}"
    with bench.environment(peer) as own:
        environment = with_task(own, "trace", count, traces)
        call(peer, environment, "prepare", f"schedule=trace={count}")
        workers = [start(peer, environment) for _ in range(2)]
        try:
            wait_until(lambda: len(set(read(traces))) >= count)
            wait_until_quiet(traces)
        finally:
            for worker in workers:
                kill(worker)
    return judge(read(traces), count)


def killed(bench: Bench, peer: Peer) -> str:
    """Kill a peer's processes in a task, start them again, and return the task's outcome."""
    traces = bench.folder / f"killed-{peer.module}-{peer.variant}"
    with bench.environment(peer) as own:
        environment = with_task(own, "linger", 1, traces)
        call(peer, environment, "prepare", "schedule=linger=1")
        worker = start(peer, environment)
        try:
            wait_until(lambda: bool(read(traces)))
        finally:
            kill(worker)
        killed_at = time.monotonic()
        # A beat would send its daily tasks again, which are not the one that was killed.
        worker = start(peer, environment | {"BENCH_TASK": ""})
        try:
            while time.monotonic() - killed_at < bench.sizes.watch_killed:
                if len(read(traces)) > 1:
                    return f"run again after {time.monotonic() - killed_at:.0f} s"
                time.sleep(LOOK_SECONDS)
        finally:
            kill(worker)
        fate = call(peer, environment, "fate")
        return f"{fate} (watched for {bench.sizes.watch_killed:g} s)"


def with_task(own: dict[str, str], task: str, count: int, traces: Path) -> dict[str, str]:
    """Add the task, its number and the file of traces to a peer's environment."""
    return own | {"BENCH_TASK": task, "BENCH_COUNT": str(count), "BENCH_TRACES": str(traces)}


def start(peer: Peer, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a peer's scheduler and workers, in a process group of their own."""
    return subprocess.Popen(
        command(peer, "work"),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children, as a crash does."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read(traces: Path) -> list[str]:
    """Return the names of the tasks that were called."""
    return traces.read_text().split() if traces.exists() else []


def judge(names: list[str], count: int) -> str:
    """Return how many tasks were called more than once, and how many never."""
    calls = Counter(names)
    lost = count - len(calls)
    more = sum(number > 1 for number in calls.values())
    return f"{more}{f', {lost} never ran' if lost else ''}"


def wait_until(done: Callable[[], bool], patience: float = PATIENCE_SECONDS) -> None:
    """Wait for a condition or the end of the patience; the result shows which."""
    deadline = time.monotonic() + patience
    while not done() and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)


def wait_until_quiet(traces: Path) -> None:
    """Wait until no trace has come for a while."""
    seen, since = len(read(traces)), time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        time.sleep(LOOK_SECONDS)
        if len(read(traces)) != seen:
            seen, since = len(read(traces)), time.monotonic()
