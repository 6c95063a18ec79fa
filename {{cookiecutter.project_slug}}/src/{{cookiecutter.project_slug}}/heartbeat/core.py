"""One application's heartbeat: its settings, database, flows and workers, in one place.

`request.heartbeat` and the commands receive it. The life of a run is in `runs/`.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

import transaction
from pydantic import SecretStr
from sqlalchemy import URL, Engine, event
from sqlalchemy.orm import Session
from zope.sqlalchemy.datamanager import STATUS_CHANGED, join_transaction

from .clock import Clock
from .db import BOOKKEEPING, UNLIMITED, Waiters, make_engine
from .db.flow_session import watch_session
from .definition import FlowDefinition
from .executors.local import LocalExecutor
from .models import Obstacle, RunStatus
from .run import ClaimedRun
from .run_log import RunLog
from .security.token import Tokens, weakness
from .settings import Settings

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")
# Attempts at a transaction of bookkeeping that the database aborts, to end a deadlock for example.
TRIES = 5
# How many beats, and how many operators, may wait for SQLite's write lock at once; and the seconds
# that operators wait at most.
WAITING = 3
OPERATOR_SECONDS = 10.0


@dataclass(eq=False)
class Leases:
    """The thread that renews the leases of the runs at work in this process.

    in_doubt: claims whose commit was never confirmed, each with the monotonic time until which it
    is looked up: its run may be ours although no thread executes it.
    """

    changing: threading.Lock = field(default_factory=threading.Lock)
    keeper: threading.Thread | None = None
    in_doubt: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class Heartbeat:
    """One application's heartbeat. Made by `includeme`; safe to use from many threads."""

    settings: Settings
    # For the engine's own short transactions, and for the sessions of flows.
    engine: Engine
    flow_engine: Engine
    clock: Clock
    tokens: Tokens
    operator_tokens: Tokens
    executor: LocalExecutor
    flows: dict[str, FlowDefinition] = field(default_factory=dict)
    registered: threading.Event = field(default_factory=threading.Event)
    leases: Leases = field(default_factory=Leases)
    # Limits for the threads that wait for SQLite's write lock, so that enough threads stay free.
    waiting_beats: Waiters = field(default_factory=lambda: Waiters(WAITING))
    waiting_operators: Waiters = field(default_factory=lambda: Waiters(WAITING, OPERATOR_SECONDS))
    # Held by the one beat that waits for a slot. No thread ever waits for this lock.
    waiting_for_slot: threading.Lock = field(default_factory=threading.Lock)
    # Executes the runs of flows with a `timeout`: set by optional/timeouts.py.
    execute_in_subprocess: Callable[[ClaimedRun, FlowDefinition, RunLog], RunStatus] | None = None
    # Set by optional/conditions.py: checks the conditions of due flows within a beat, and keeps
    # the verdicts by flow id.
    check_conditions: Callable[["Heartbeat", dict[int, bool]], None] | None = None
    # Set by optional/conditions.py, too: what keeps a flow from running although it is due.
    obstacles: tuple[Obstacle, ...] = ()
    # Periodic work of optional modules: each beat calls it after its runs.
    chores: list[Callable[["Heartbeat"], None]] = field(default_factory=list)
    # Shutdown hooks: called after the grace period of the runs. They must not block.
    at_exit: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        heartbeats.add(self)
        # A new connection may reach another database, which lacks the flows' rows.
        event.listen(self.engine, "invalidate", lambda *_ignored: self.registered.clear())

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

        If the database aborts it (deadlock, serialization failure), it is repeated from its start.
        Not for a flow's own work.
        """
        manager = transaction.TransactionManager(explicit=True)

        def step() -> _Result:
            session = Session(self.engine, expire_on_commit=False)
            # The data manager knows which errors of a driver are worth a retry.
            join_transaction(session, STATUS_CHANGED, manager)
            return work(session)

        result: _Result = manager.run(step, tries=TRIES)
        return result

    def do_chores(self) -> None:
        """Do the periodic work of optional modules. What fails is logged."""
        for chore in self.chores:
            try:
                chore(self)
            except Exception:
                log.exception("a chore failed: a later beat tries again")

    def dispose(self) -> None:
        """Close the connections that nobody uses."""
        self.engine.dispose()
        self.flow_engine.dispose()

    def secrets(self) -> list[str]:
        """Return the engine's own secrets, which are removed from stored text."""
        password: Any = self.engine.url.password
        tokens = (*self.tokens.all(), *self.operator_tokens.all())
        return [*(token.secret for token in tokens), *([str(password)] if password else [])]


# All heartbeats of this process, for its shutdown: an application may be wrapped in filters.
heartbeats: WeakSet[Heartbeat] = WeakSet()


@cache
def _worker_name(process: int) -> str:
    return f"{socket.gethostname()[:100]}:{process}:{datetime.now(UTC).isoformat()}"


def make_heartbeat(settings: Settings, url: URL) -> Heartbeat:
    """Return the Heartbeat of an application, without any flows yet.

    It connects when it is used. Raises SettingsError when the database's driver is missing.
    """
    flow_engine = make_engine(url, limits=UNLIMITED, pool_size=settings.workers)
    watch_session(flow_engine)
    return Heartbeat(
        settings=settings,
        engine=make_engine(url, limits=BOOKKEEPING),
        flow_engine=flow_engine,
        clock=Clock(),
        executor=LocalExecutor(settings.workers, settings.batch_size),
        tokens=_tokens(settings.token, settings.token_file),
        operator_tokens=_tokens(settings.operator_token, settings.operator_token_file),
    )


def _tokens(value: SecretStr | None, file: Path | None) -> Tokens:
    return Tokens(value.get_secret_value() if value else None, file, weakness)
