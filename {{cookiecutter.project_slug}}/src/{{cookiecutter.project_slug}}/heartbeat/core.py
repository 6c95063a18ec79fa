"""One application's heartbeat: its settings, database, flows and workers, in one place.

`request.heartbeat` and the commands receive it. The life of a run is in `runs/`.
"""

import logging
import os
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

import transaction
from pydantic import SecretStr
from sqlalchemy import URL, Engine, event, make_url
from sqlalchemy.orm import Session
from zope.sqlalchemy.datamanager import STATUS_CHANGED, join_transaction

from .clock import Clock
from .db import BOOKKEEPING, UNLIMITED, Waiters, close_connections, make_engine
from .db.flow_session import watch_session
from .definition import FlowDefinition
from .events import Event, events_of
from .executors.local import LocalExecutor
from .log_lines import log_event, log_start
from .models import Obstacle, RunStatus
from .repeats import RepeatLimit
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


SubprocessWork = Callable[["Heartbeat", ClaimedRun], object]


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
    start_logged: bool = False
    leases: Leases = field(default_factory=Leases)
    # Limits for the threads that wait for SQLite's write lock, so that enough threads stay free.
    waiting_beats: Waiters = field(default_factory=lambda: Waiters(WAITING))
    waiting_operators: Waiters = field(default_factory=lambda: Waiters(WAITING, OPERATOR_SECONDS))
    # Held by the one beat that waits for a slot. No thread ever waits for this lock.
    waiting_for_slot: threading.Lock = field(default_factory=threading.Lock)
    # Executes the runs of flows with a `timeout`: set by optional/timeouts.py.
    execute_in_subprocess: Callable[[ClaimedRun, FlowDefinition, RunLog], RunStatus] | None = None
    # Set by optional/timeouts.py, too: calls a function with a heartbeat and a run in a process of
    # its own, for so many seconds at most.
    call_in_subprocess: Callable[[SubprocessWork, ClaimedRun, float, RunLog], Any] | None = None
    # Set by optional/conditions.py: checks the conditions of due flows within a beat, and keeps
    # the verdicts by flow id.
    check_conditions: Callable[["Heartbeat", dict[int, bool]], None] | None = None
    # Set by optional/celery: hands what is due to the workers of Celery, for a beat in progress.
    hand_over: Callable[[Any], None] | None = None
    # Set by optional/celery, too: hands over requested runs, by their ids.
    hand_over_requested: Callable[[Sequence[int]], None] | None = None
    # Set by optional/conditions.py, too: what keeps a flow from running although it is due.
    obstacles: tuple[Obstacle, ...] = ()
    # For lines that a caller, or a database that is away, would repeat many times.
    repeats: RepeatLimit = field(default_factory=RepeatLimit)
    # Set by optional/alarms, optional/webhooks and optional/celery: their options of flows need it.
    alarms: object | None = None
    pings: object | None = None
    queues: object | None = None
    # Optional modules that follow what happens here. They must not block.
    subscribers: list[Callable[[Event], None]] = field(default_factory=list)
    # Periodic work of optional modules: each beat calls it after its runs.
    chores: list[Callable[["Heartbeat"], None]] = field(default_factory=list)
    # Shutdown hooks: called after the grace period of the runs, and after a command. They must not
    # block for long.
    at_exit: list[Callable[[], object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        heartbeats.add(self)
        # A new connection may reach another database, which lacks the flows' rows.
        event.listen(self.engine, "invalidate", lambda *_ignored: self.registered.clear())

    @property
    def redeliver_after(self) -> int | None:
        """The seconds after which a run that was handed over and has not started is due again.

        None for the local executor, which hands nothing over.
        """
        is_local = self.settings.executor == "local"
        return None if is_local else self.settings.redeliver_after

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
        self.notify(*events_of(session))

    def transact(self, work: Callable[[Session], _Result]) -> _Result:
        """Do a step of the engine's own bookkeeping in one transaction; return its result.

        If the database aborts it (deadlock, serialization failure), it is repeated from its start.
        Not for a flow's own work.
        """
        manager = transaction.TransactionManager(explicit=True)

        def step() -> tuple[_Result, Session]:
            session = Session(self.engine, expire_on_commit=False)
            # The data manager knows which errors of a driver are worth a retry.
            join_transaction(session, STATUS_CHANGED, manager)
            return work(session), session

        result: _Result
        result, committed = manager.run(step, tries=TRIES)
        self.notify(*events_of(committed))
        return result

    def log_start(self) -> None:
        """Log once what this process serves."""
        if not self.start_logged:
            self.start_logged = True
            log_start(self.settings, self.engine.url, len(self.flows))

    def notify(self, *events: Event) -> None:
        """Log what has happened, and publish it. It is committed: what fails now is logged."""
        for happened in events:
            try:
                log_event(happened)
            except Exception:
                log.exception("an event could not be logged")
            self.publish(happened)

    def publish(self, happened: Event) -> None:
        """Call the subscribers. What fails is logged."""
        for subscriber in self.subscribers:
            try:
                subscriber(happened)
            except Exception:
                log.exception("a subscriber of the heartbeat failed")

    def do_chores(self) -> None:
        """Do the periodic work of optional modules. What fails is logged."""
        for chore in self.chores:
            try:
                chore(self)
            except Exception:
                log.exception("a chore failed: a later beat tries again")

    def dispose(self) -> None:
        """Close all connections: those in use when they are returned."""
        close_connections(self.engine)
        close_connections(self.flow_engine)

    def secrets(self) -> list[str]:
        """Return the engine's own secrets, which are removed from stored text."""
        servers = [self.engine.url]
        if self.settings.celery_broker_url:
            brokers = self.settings.celery_broker_url.get_secret_value().split(";")
            servers += [make_url(broker) for broker in brokers]
        passwords: list[Any] = [server.password for server in servers]
        tokens = (*self.tokens.all(), *self.operator_tokens.all())
        urls = [self.settings.ping_url, self.settings.webhook_url]
        urls += [flow.ping_url for flow in self.flows.values()]
        return [
            *(token.secret for token in tokens),
            *(str(each) for each in passwords if each),
            *(str(url.get_secret_value()) for url in urls if url),
        ]

    def success_limits(self) -> dict[int, list[str]]:
        """Return the handlers with the option `expect_success_within`, by its seconds."""
        limits = defaultdict[int, list[str]](list)
        for name, flow in self.flows.items():
            if flow.expect_success_within:
                limits[flow.expect_success_within].append(name)
        return limits


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
        # Without workers of its own, nothing that is requested starts here.
        executor=LocalExecutor(
            settings.workers if settings.executor == "local" else 0, settings.batch_size
        ),
        tokens=_tokens(settings.token, settings.token_file),
        operator_tokens=_tokens(settings.operator_token, settings.operator_token_file),
    )


def _tokens(value: SecretStr | None, file: Path | None) -> Tokens:
    return Tokens(value.get_secret_value() if value else None, file, weakness)
