"""A run of the benchmarks: its sizes, its installations, and its calls of the peers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import project, views
from .databases import REDIS_URL, MissingError, database, require_redis
from .peers import PEERS, Peer
from .report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COLUMNS = (
    "runs/s",
    "runs/s, each inserts a row",
    "outcome recorded",
    "one due task, ms",
    "tick with nothing due, ms",
    "ran twice, two schedulers",
    "kill -9 in a task",
)
PEER_SECONDS = 900


@dataclass(frozen=True)
class Sizes:
    """The numbers of rounds, flows and rows."""

    due: int = 2_000
    rounds: int = 5
    few_rounds: int = 3  # of peers without a bar, and of measurements that take minutes
    requests: int = 200
    schedules: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    twice: int = 200
    watch_killed: float = 40  # pgqueuer needs 32
    grown: int = 20_000
    small: int = 200
    history: int = 10_000_000
    history_small: int = 10_000
    scraped: int = 1_000_000
    scraped_small: int = 1_000
    waiting: int = 1_000
    slow: int = 8
    handed: int = 1_000
    processes: tuple[int, ...] = (1, 2, 4)
    simulated: int = 1_000_000
    backlog: int = 5_000
    steady: float = 120
    set_ups: int = 5
    pip_set_ups: int = 3

    @property
    def singles(self) -> int:
        """How often one due task is measured in a round."""
        return max(5, self.requests // 10)

    @property
    def ready_rounds(self) -> int:
        """The rounds of `pserve` alone, which takes a second."""
        return 2 * self.set_ups


FULL = Sizes()
QUICK = Sizes(
    due=300,
    rounds=2,
    few_rounds=1,
    requests=50,
    schedules=(1_000, 10_000, 100_000),
    watch_killed=8,
    grown=2_000,
    history=100_000,
    scraped=100_000,
    waiting=200,
    handed=200,
    simulated=20_000,
    backlog=500,
    steady=15,
    set_ups=2,
    pip_set_ups=0,
)


@dataclass
class Bench:
    """The state that all parts share."""

    sizes: Sizes
    folder: Path
    chosen: str = ""
    report: Report = field(default_factory=lambda: Report(COLUMNS))
    kept: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def project(self) -> project.Project:
        """The rendered project, installed once."""
        say("rendering and installing the project")
        return project.install(self.folder / "project")

    @cached_property
    def starter(self) -> views.Starter:
        """The application in the starter's shape, installed once."""
        say("installing the application in the starter's shape")
        constraints = self.project.folder / "constraints.txt"
        return views.install(self.folder / "starter", constraints)

    @property
    def peers(self) -> list[Peer]:
        """The peers to measure."""
        wanted = self.chosen.lower()
        return [peer for peer in PEERS if wanted in f"{peer.label} {peer.module}".lower()]

    @contextmanager
    def database(self, kind: str) -> Iterator[str]:
        """Create a database, yield its URL, and drop it."""
        with database(kind, self.folder) as url:
            yield url

    @contextmanager
    def environment(self, peer: Peer) -> Iterator[dict[str, str]]:
        """Create a database for a peer; yield the environment of its processes."""
        if peer.redis:
            require_redis()
        with self.database(peer.kind) as url:
            yield os.environ | {
                "BENCH_DATABASE": url,
                "BENCH_VARIANT": peer.variant,
                "BENCH_REDIS": REDIS_URL,
                "PYTHONPATH": str(project.TEMPLATE),
                "PYTHONDONTWRITEBYTECODE": "1",
            }

    def call(self, peer: Peer, *calls: str) -> Any:
        """Call functions of a peer's module in a new process; return the last one's result."""
        with self.environment(peer) as environment:
            return call(peer, environment, *calls)


def command(peer: Peer, *calls: str) -> list[str]:
    """Return the command that calls functions of a peer's module."""
    return [sys.executable, "-m", "benchmarks.peers", peer.module, *calls]


def call(peer: Peer, environment: dict[str, str], *calls: str) -> Any:
    """Call functions of a peer's module in an environment; return the last one's result."""
    try:
        done = subprocess.run(
            command(peer, *calls),
            cwd=tempfile.gettempdir(),
            env=environment,
            capture_output=True,
            check=False,
            text=True,
            timeout=PEER_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise MissingError(f"did not end within {PEER_SECONDS} s") from error
    if done.returncode:
        say(f"{peer.label}: {' '.join(calls)} failed:\n{done.stderr[-3000:]}")
        raise MissingError(f"failed: {''.join(done.stderr.splitlines()[-1:])}")
    return json.loads(done.stdout.splitlines()[-1])


def say(text: str) -> None:
    """Print the progress."""
    print(f"  {text}", file=sys.stderr, flush=True)


def in_turn(
    rounds: int, works: dict[str, Callable[[], list[float]]]
) -> tuple[dict[str, list[list[float]]], dict[str, str]]:
    """Call all in turn in each round; return their results, and the reasons of those left out."""
    found: dict[str, list[list[float]]] = {name: [] for name in works}
    missing: dict[str, str] = {}
    for number in range(rounds):
        for name, work in works.items():
            if name in missing:
                continue
            began = time.monotonic()
            try:
                found[name].append(work())
            except MissingError as error:
                missing[name] = str(error)
                say(f"{name}: left out, {error}")
            else:
                took = time.monotonic() - began
                say(f"round {number + 1} of {rounds}: {name}, took {took:.1f} s")
    return {name: values for name, values in found.items() if name not in missing}, missing
