"""The one write lock of SQLite, which a flow that has written holds until it ends.

SQLite itself would retry after pauses of up to 100 ms. Here, the threads of this process wake each
other up, and retry every few milliseconds because of other processes.
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

# A flow holds the lock until it ends. A longer limit than that of any flow: giving up would fail a
# healthy run.
LOCK_SECONDS = 86_400.0
# The seconds after which a waiting thread retries, unless another thread wakes it up before.
RETRY_AFTER = 0.01

_writer_gone = threading.Condition()
# By database file: the thread of this process that was the last one to write, and its connection.
_writers: dict[str, tuple[threading.Thread, sqlite3.Connection]] = {}


class Waiters:
    """Limits for the threads that wait for the write lock: their number, and their time."""

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
    """Begin a write transaction. Return False if the lock is taken and `wait` is false.

    Raises DatabaseBusyError at the limits of `waiters`, and SecondSessionError if this thread holds
    the lock through another connection, so that it would wait for itself.
    """
    own: Any = connection.connection.dbapi_connection
    file = _file_of(connection.engine)
    with without_busy_timeout(own) as timeout:
        if not _execute_if_free(own, "BEGIN IMMEDIATE"):
            if not wait:
                return False
            if _holds_lock(file):
                raise SecondSessionError
            with waiters.place() if waiters else nullcontext():
                seconds = waiters.seconds if waiters else timeout
                if not execute_when_free(own, "BEGIN IMMEDIATE", seconds):
                    if waiters:
                        raise DatabaseBusyError
                    locked = sqlite3.OperationalError("database is locked")
                    raise OperationalError("BEGIN IMMEDIATE", None, locked)
    with _writer_gone:
        _writers[file] = threading.current_thread(), own
    return True


def refuse_left_transaction(engine: Engine) -> None:
    """Raise SecondSessionError if this thread holds the lock through a connection left open."""
    if _holds_lock(_file_of(engine)):
        raise SecondSessionError


def end_left_transaction(engine: Engine) -> None:
    """Roll back the transaction that this thread left open on another connection."""
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
    """Yield the connection's busy timeout in seconds, which is 0 within the block."""
    milliseconds = own.execute("PRAGMA busy_timeout").fetchone()[0]
    own.execute("PRAGMA busy_timeout = 0")
    try:
        yield milliseconds / 1_000
    finally:
        own.execute(f"PRAGMA busy_timeout = {milliseconds}")


def execute_when_free(own: Any, statement: str, seconds: float) -> bool:
    """Execute a statement as soon as its lock is free; return False after `seconds`."""
    deadline = time.monotonic() + seconds
    while not _execute_if_free(own, statement):
        if time.monotonic() > deadline:
            return False
        with _writer_gone:
            _writer_gone.wait(RETRY_AFTER)
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
    """Forget the writer of a connection that returns to its pool."""
    # SQLAlchemy leaves a transaction open if its commit was refused.
    if connection and connection.in_transaction:
        connection.rollback()
    with _writer_gone:
        for file in [file for file, (_, known) in _writers.items() if known is connection]:
            del _writers[file]


def wake_writer(*_ignored: object) -> None:
    """Wake a thread that waits for the lock."""
    with _writer_gone:
        _writer_gone.notify()
