"""A run: its sizes, what it installs once, and how it calls the peers."""

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
    "outcome recorded",
    "one due task, ms",
    "tick with nothing due, ms",
    "ran twice, two schedulers",
    "kill -9 in a task",
)
PEER_SECONDS = 900


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    due: int = 2_000
    rounds: int = 5
    long_rounds: int = 3  # of what takes minutes
    requests: int = 200
    schedules: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    twice: int = 200
    watch_killed: float = 45
    grown: int = 20_000
    small: int = 200
    history: int = 10_000_000
    history_small: int = 10_000
    history_seconds: float = 300
    waiting: int = 1_000
    set_ups: int = 5
    pip_set_ups: int = 3


FULL = Sizes()
QUICK = Sizes(
    due=300,
    rounds=2,
    long_rounds=1,
    requests=50,
    schedules=(1_000, 10_000, 100_000),
    watch_killed=8,
    grown=2_000,
    history=100_000,
    history_seconds=10,
    waiting=200,
    set_ups=2,
    pip_set_ups=0,
)


@dataclass
class Bench:
    """What all parts share."""

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
        """The starter-shaped application, installed once."""
        say("installing the starter-shaped application")
        constraints = self.project.folder / "constraints.txt"
        return views.install(self.folder / "starter", constraints)

    @property
    def peers(self) -> list[Peer]:
        """The peers to measure."""
        wanted = self.chosen.lower()
        return [peer for peer in PEERS if wanted in f"{peer.label} {peer.module}".lower()]

    @contextmanager
    def database(self, kind: str) -> Iterator[str]:
        """Make a database, and drop it after."""
        with database(kind, self.folder) as url:
            yield url

    @contextmanager
    def place(self, peer: Peer) -> Iterator[dict[str, str]]:
        """Make a place for a peer to work in; give the variables that tell it."""
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

    def ask(self, peer: Peer, *calls: str) -> Any:
        """Call functions of a peer's module in a fresh process; give what the last returns."""
        with self.place(peer) as environment:
            return call(peer, environment, *calls)


def command(peer: Peer, *calls: str) -> list[str]:
    """Give the command that calls functions of a peer's module."""
    return [sys.executable, "-m", "benchmarks.peers", peer.module, *calls]


def call(peer: Peer, environment: dict[str, str], *calls: str) -> Any:
    """Call functions of a peer's module in a place; give what the last one returns."""
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
    """Tell what is going on."""
    print(f"  {text}", file=sys.stderr, flush=True)


def in_turn(
    rounds: int, works: dict[str, Callable[[], list[float]]]
) -> tuple[dict[str, list[list[float]]], dict[str, str]]:
    """Call all in turn, so many rounds; give what each returned, and why some were left out."""
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
