"""The one write lock of SQLite, which a flow that has written holds until it ends.

SQLite itself would look for the lock after pauses of up to 100 ms. The threads of this process wake
each other up, look every few milliseconds for other processes, and know which of them holds it.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from ..errors import DatabaseBusyError, SecondSessionError

# A flow holds the lock for as long as it runs. What waits for it must outlast any flow: giving up
# would fail a healthy run.
LOCK_SECONDS = 86_400.0
# How soon a waiting thread looks again, in seconds, unless another thread wakes it up before.
LOOK_AGAIN = 0.01

_writer_gone = threading.Condition()
# By database file: the thread of this process that began to write last, and its connection.
_writers: dict[str, tuple[threading.Thread, sqlite3.Connection]] = {}


class Waiters:
    """A limit for threads that wait for the write lock: how many at once, and for how long."""

    def __init__(self, limit: int, seconds: float = LOCK_SECONDS) -> None:
        self.seconds = seconds
        self._places = threading.Semaphore(limit)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place for the block. Raises DatabaseBusyError if all are taken."""
        if not self._places.acquire(blocking=False):
            raise DatabaseBusyError
        try:
            yield
        finally:
            self._places.release()


def lock(connection: Connection, waiters: Waiters | None = None, *, wait: bool = True) -> bool:
    """Begin to write: take the write lock, and wait for it. Return False if it must not `wait`.

    Raises DatabaseBusyError where `waiters` are limited, and SecondSessionError where this thread
    holds the lock by another connection, so that it would wait for itself.
    """
    own: Any = connection.connection.dbapi_connection
    file = _file_of(connection.engine)
    with without_busy_timeout(own) as patience:
        if not _execute_if_free(own, "BEGIN IMMEDIATE"):
            if not wait:
                return False
            if _holds_lock(file):
                raise SecondSessionError
            with waiters.place() if waiters else nullcontext():
                seconds = waiters.seconds if waiters else patience
                if not execute_when_free(own, "BEGIN IMMEDIATE", seconds):
                    if waiters:
                        raise DatabaseBusyError
                    locked = sqlite3.OperationalError("database is locked")
                    raise OperationalError("BEGIN IMMEDIATE", None, locked)
    with _writer_gone:
        _writers[file] = threading.current_thread(), own
    return True


def end_left_transaction(engine: Engine) -> None:
    """Roll back what this thread left open on another connection."""
    file = _file_of(engine)
    if _holds_lock(file):
        _writers[file][1].rollback()
        wake_writer()


def is_writing(connection: Connection) -> bool:
    """Return whether a transaction is open on the connection."""
    own: Any = connection.connection.dbapi_connection
    return bool(own.in_transaction)


def _file_of(engine: Engine) -> str:
    file = engine.url.database
    return str(Path(file).absolute()) if file and file != ":memory:" else f"memory {id(engine)}"


def _holds_lock(file: str) -> bool:
    thread, connection = _writers.get(file, (None, None))
    if connection is None or thread is not threading.current_thread():
        return False
    with suppress(sqlite3.ProgrammingError):  # it may have been closed
        return connection.in_transaction
    return False


@contextmanager
def without_busy_timeout(own: Any) -> Iterator[float]:
    """Yield the connection's busy timeout in seconds; SQLite itself does not wait in the block."""
    patience = own.execute("PRAGMA busy_timeout").fetchone()[0]
    own.execute("PRAGMA busy_timeout = 0")
    try:
        yield patience / 1_000
    finally:
        own.execute(f"PRAGMA busy_timeout = {patience}")


def execute_when_free(own: Any, statement: str, seconds: float) -> bool:
    """Execute what takes a lock as soon as it is free; return False if that takes too long."""
    deadline = time.monotonic() + seconds
    while not _execute_if_free(own, statement):
        if time.monotonic() > deadline:
            return False
        with _writer_gone:
            _writer_gone.wait(LOOK_AGAIN)
    return True


def _execute_if_free(own: Any, statement: str) -> bool:
    try:
        own.execute(statement)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname.startswith("SQLITE_BUSY"):
            return False
        raise OperationalError(statement, None, error) from error
    return True


def forget_writer(connection: sqlite3.Connection | None, _record: object) -> None:
    """Forget who wrote by a connection that goes back to its pool: another thread may be next."""
    # SQLAlchemy leaves a transaction open whose commit was refused.
    if connection and connection.in_transaction:
        connection.rollback()
    with _writer_gone:
        for file in [file for file, (_, known) in _writers.items() if known is connection]:
            del _writers[file]


def wake_writer(*_ignored: object) -> None:
    """Wake a thread that waits for the lock."""
    with _writer_gone:
        _writer_gone.notify()
