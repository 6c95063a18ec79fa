"""What an application holds of the heartbeat: settings, database, flows and workers, in one place.

`request.heartbeat` and the command line receive it; nothing here does any work of its own.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar
from weakref import WeakSet

import transaction
from sqlalchemy import ColumnElement, Engine
from sqlalchemy.orm import Session
from zope.sqlalchemy.datamanager import STATUS_CHANGED, join_transaction

from .clock import Clock
from .executors.local import LocalExecutor
from .models import RunStatus
from .registry import FlowDefinition
from .runs.run import ClaimedRun, RunLog
from .security.token import Tokens
from .settings import Settings

_Result = TypeVar("_Result")
# How often a step of bookkeeping is tried that the database breaks off to end a deadlock.
TRIES = 5


@dataclass(eq=False)
class Leases:
    """The runs at work in this process, by claim with their id, and the thread that keeps them."""

    claims: dict[str, int] = field(default_factory=dict)
    changing: threading.Lock = field(default_factory=threading.Lock)
    pause: threading.Event = field(default_factory=threading.Event)
    keeper: threading.Thread | None = None


@dataclass(eq=False)
class Heartbeat:
    """One application's heartbeat. Made by `includeme`; safe to use from many threads."""

    settings: Settings
    engine: Engine
    clock: Clock
    tokens: Tokens
    operator_tokens: Tokens
    executor: LocalExecutor
    flows: dict[str, FlowDefinition] = field(default_factory=dict)
    registered: threading.Event = field(default_factory=threading.Event)
    leases: Leases = field(default_factory=Leases)
    # Executes the runs of flows with a `timeout`: set by the optional executors/child.py.
    execute_apart: Callable[[ClaimedRun, FlowDefinition, RunLog], RunStatus] | None = None
    # Asks the conditions of flows that are due, and which flows are held by others: both set by the
    # optional conditions.py. Asked within a beat: the answers so far, by the flow's id.
    ask: Callable[["Heartbeat", dict[int, bool]], None] | None = None
    conditions: tuple[ColumnElement[bool], ...] = ()
    # What optional modules want done now and then: each beat calls them when its runs are done.
    chores: list[Callable[["Heartbeat"], None]] = field(default_factory=list)
    # What ends that which would outlive the process: called when it stops and its runs have had
    # their time. It must wait for nothing.
    at_exit: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        heartbeats.add(self)

    @property
    def worker(self) -> str:
        """A name for this process: host, process id, and when it began to work.

        Made on first use, so after any fork of the server.
        """
        return _worker_name(os.getpid())

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a session for the engine's own bookkeeping: commits at the end, or rolls back."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def transact(self, work: Callable[[Session], _Result]) -> _Result:
        """Do a step of the engine's own bookkeeping in one transaction; return its result.

        Where the database breaks it off, to end a deadlock or because it cannot be serialized, it
        is done again from its start. Never for a flow's own work.
        """
        manager = transaction.TransactionManager(explicit=True)

        def step() -> _Result:
            session = Session(self.engine, expire_on_commit=False)
            # What joins knows which errors of which driver are worth another try.
            join_transaction(session, STATUS_CHANGED, manager)
            return work(session)

        result: _Result = manager.run(step, tries=TRIES)
        return result

    def secrets(self) -> list[str]:
        """Return the engine's own secrets, for taking them out of what is stored."""
        password: Any = self.engine.url.password
        tokens = (*self.tokens.all(), *self.operator_tokens.all())
        return [*(token.secret for token in tokens), *([str(password)] if password else [])]


# Those of this process, for what stops it: a server's application may be wrapped in filters.
heartbeats: WeakSet[Heartbeat] = WeakSet()


@cache
def _worker_name(process: int) -> str:
    return f"{socket.gethostname()[:100]}:{process}:{datetime.now(UTC).isoformat()}"
