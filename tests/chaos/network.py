"""The network between one process and its database server: silent, slow, or losing an answer.

The proxy that does it is the one of the engine's tests. SQLite has no network.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .audit import Span

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable
    from random import Random

    from .audit import Facts
    from .processes import Process

PROXY = Path(__file__).parents[1] / "engine" / "concurrency" / "proxy.py"
# The engine's commits. On PostgreSQL the end of a run that wrote nothing is one statement.
COMMIT = rb"\bCOMMIT\b|\bWITH locked AS\b"
ANY, CLAIM = b"", rb"INSERT INTO data_flow_runs"
SILENCE, DELAY = "silences", "delays"
# All times are in seconds.
COMMIT_LATE = (0.1, 5.0)
# What was on its way when the network was well again arrives, or is reset, within this time.
RECOVERY = 2.0
# The engine gives up a silent connection after at most so long. Until then its runs may fail.
GIVEN_UP = 30.0
# By the name of a trouble at one commit: the proxy's name for it, and how long it has effects.
# SILENT: the commit does not arrive. LOSE_ANSWER: it is applied, then the connection is reset, or
# is silent.
AT_COMMIT = {
    "silent commits": ("SILENT", GIVEN_UP),
    "late commits": ("DELAY", COMMIT_LATE[1] + RECOVERY),
    "answers lost by a reset": ("LOSE_ANSWER", RECOVERY),
    "answers lost in silence": ("LOSE_ANSWER_SILENTLY", GIVEN_UP),
}
# What is done to the network of a process, and how often compared with the others.
TROUBLES = {SILENCE: 4, DELAY: 4, **dict.fromkeys(AT_COMMIT, 2)}
# A silence may be longer than most of the engine's limits on waiting.
SILENCE_LASTS = (0.5, 20.0)
DELAY_LASTS, ANSWERS_LATE = (2.0, 10.0), (0.1, 2.0)
# A process that commits nothing for so long keeps its trap no longer.
TRAP_LASTS = 10.0
# This share of the processes in trouble is left alone meanwhile, and so seen recovering.
SPARED = 0.6


class Network:
    """The way of one process to its database server, through a proxy of its own."""

    def __init__(self, url: str) -> None:
        """Listen for the process; `url` leads to the server."""
        server = urlsplit(url)
        self.module = load_proxy()
        self.proxy = self.module.Proxy(server.hostname, server.port)
        netloc = server.netloc.replace(f":{server.port}", f":{self.proxy.port}")
        self.url = server._replace(netloc=netloc).geturl()

    @property
    def is_cut_off(self) -> bool:
        """Whether the process is silenced or slowed down as a whole."""
        return bool(self.proxy.silent or self.proxy.delay)

    def set_trap(self, fault: str, after: bytes, seconds: float = 0.0) -> Any:  # noqa: ANN401
        """Return a trap for the next commit of a transaction that has sent `after`."""
        return self.proxy.trap(after, self.module.Fault[fault], at=COMMIT, seconds=seconds)


@dataclass(eq=False)
class Trouble:
    """One disturbance of the network of a process."""

    name: str
    process: Process
    network: Network
    since: datetime
    # By the monotonic clock.
    until: float
    # Whether the process is left alone meanwhile.
    spares: bool
    # At a commit, and whether it has caught one.
    trap: Any = None
    caught: bool = False


class Troubles:
    """All that is done to networks, and what the audit must know of it."""

    def __init__(self, facts: Facts, deeds: Counter[str], log: Callable[[str], None]) -> None:
        """Take where to note it, where to count it, and where to log it."""
        self.facts, self.deeds, self.log = facts, deeds, log
        self.present: list[Trouble] = []

    def of(self, process: Process) -> Trouble | None:
        """Return the trouble that a process has, if any."""
        return next((each for each in self.present if each.process is process), None)

    def spare(self, process: Process) -> bool:
        """Return whether nothing else is to be done to a process."""
        trouble = self.of(process)
        return trouble is not None and trouble.spares

    def begin(self, name: str, process: Process, random: Random, now: float) -> None:
        """Disturb the network of a process."""
        network = process.network
        assert network is not None
        spares = random.random() < SPARED
        trouble = Trouble(name, process, network, datetime.now(UTC), now + TRAP_LASTS, spares)
        if name == SILENCE:
            network.proxy.silent = True
            trouble.until = now + random.uniform(*SILENCE_LASTS)
        elif name == DELAY:
            network.proxy.delay = random.uniform(*ANSWERS_LATE)
            trouble.until = now + random.uniform(*DELAY_LASTS)
        else:
            fault, _ = AT_COMMIT[name]
            late = random.uniform(*COMMIT_LATE)
            trouble.trap = network.set_trap(fault, random.choice((ANY, CLAIM)), late)
        self.present.append(trouble)
        if trouble.trap is None:
            self.count(trouble)

    def tend(self, now: float) -> None:
        """Count the traps that have caught a commit, and end the troubles whose time is over."""
        for trouble in list(self.present):
            if trouble.trap and trouble.trap.sprung.is_set() and not trouble.caught:
                _, seconds = AT_COMMIT[trouble.name]
                trouble.caught, trouble.until = True, now + seconds
                self.count(trouble)
                self.note(trouble, seconds)
            if now >= trouble.until:
                self.end(trouble)

    def end(self, trouble: Trouble) -> None:
        """Forward everything again. A connection that a trap has silenced stays silent."""
        trouble.network.proxy.heal()
        self.present.remove(trouble)
        if trouble.trap is None:
            self.log(f"end of {trouble.name}: {trouble.process.id}")
            self.note(trouble, RECOVERY)

    def end_all(self) -> None:
        """End all troubles."""
        self.tend(0.0)
        for trouble in list(self.present):
            self.end(trouble)

    def count(self, trouble: Trouble) -> None:
        """Count and log a trouble."""
        self.deeds[trouble.name] += 1
        self.log(f"{trouble.name}: {trouble.process.id}")

    def note(self, trouble: Trouble, seconds: float) -> None:
        """Note that runs of a process may fail for so long, and its beats be refused."""
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        self.facts.cut_off[trouble.process.id].append(Span(trouble.since, until))


@cache
def load_proxy() -> Any:  # noqa: ANN401 - a module outside of any package
    """Return the module of the proxy, which the engine's tests have too."""
    spec = importlib.util.spec_from_file_location("heartbeat_proxy", PROXY)
    if spec is None or spec.loader is None:
        raise ImportError(str(PROXY))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module
