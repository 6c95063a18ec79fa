"""SQLite: its settings, and its one write lock, which a flow that has written holds until it ends.

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

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import InvalidatePoolError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from ..errors import DatabaseBusyError, SecondSessionError
from ..models.stored import decode

# Statements that need no write lock. All else begins an immediate transaction, since one that reads
# first and writes later fails at once when somebody else has written in between.
_READS = ("SELECT", "PRAGMA", "EXPLAIN", "VALUES", "BEGIN")
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


def prepare_engine(engine: Engine) -> None:
    """Make the engine's connections write and wait in our way."""
    file = _DatabaseFile(engine)
    event.listen(engine, "do_connect", file.refuse_if_removed)
    event.listen(engine, "connect", _prepare_connection)
    event.listen(engine, "connect", file.remember)
    event.listen(engine, "checkout", file.check)
    event.listen(engine, "before_cursor_execute", _begin_immediate)
    event.listen(engine, "after_cursor_execute", _read_at_once)
    event.listen(engine, "checkin", _forget_writer)
    event.listen(engine, "checkin", _wake_writer)
    event.listen(engine, "handle_error", _replace_read_only)


class _DatabaseFile:
    """The file of an engine: no connection is used whose file was removed or replaced.

    SQLite would go on working with a file that nobody else can see.
    """

    def __init__(self, engine: Engine) -> None:
        self._path = Path(engine.url.database or ":memory:").absolute()
        self._was_there = False

    def refuse_if_removed(self, *_ignored: object) -> None:
        """Refuse to connect if the file was removed: SQLite would make an empty one."""
        if self._was_there and self._identity() is None:
            raise sqlite3.OperationalError(f"the file {self._path} was removed")

    def remember(self, _connection: object, record: ConnectionPoolEntry) -> None:
        """Remember which file a new connection has opened; None stands for one in memory."""
        record.info["file"] = self._identity()
        self._was_there |= record.info["file"] is not None

    def check(self, _connection: object, record: ConnectionPoolEntry, _proxy: object) -> None:
        """Make the pool connect anew if its connections have opened another file."""
        if record.info["file"] != self._identity():
            raise InvalidatePoolError

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


def read_any_text(connection: Any, _record: object) -> None:
    """Read a text that is not UTF-8 as Unreadable, where the driver would fail on all rows."""
    connection.text_factory = decode


def lock(connection: Connection, waiters: Waiters | None = None, *, wait: bool = True) -> bool:
    """Begin to write: take the write lock, and wait for it. Return False if it must not `wait`.

    Raises DatabaseBusyError where `waiters` are limited, and SecondSessionError where this thread
    holds the lock by another connection, so that it would wait for itself.
    """
    own: Any = connection.connection.dbapi_connection
    file = _file_of(connection.engine)
    with _without_busy_timeout(own) as patience:
        if not _execute_if_free(own, "BEGIN IMMEDIATE"):
            if not wait:
                return False
            if _holds_lock(file):
                raise SecondSessionError
            with waiters.place() if waiters else nullcontext():
                seconds = waiters.seconds if waiters else patience
                if not _execute_when_free(own, "BEGIN IMMEDIATE", seconds):
                    if waiters:
                        raise DatabaseBusyError
                    locked = sqlite3.OperationalError("database is locked")
                    raise OperationalError("BEGIN IMMEDIATE", None, locked)
    with _writer_gone:
        _writers[file] = threading.current_thread(), own
    return True


def end_left_transaction(engine: Engine) -> bool:
    """Roll back what this thread left open on another connection; return if there was any."""
    if engine.dialect.name != "sqlite":
        return False
    file = _file_of(engine)
    if not _holds_lock(file):
        return False
    _writers[file][1].rollback()
    _wake_writer()
    return True


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


def _forget_writer(connection: object, _record: object) -> None:
    """Forget who wrote by a connection that goes back to its pool: another thread may be next."""
    with _writer_gone:
        for file in [file for file, (_, known) in _writers.items() if known is connection]:
            del _writers[file]


def _prepare_connection(connection: Any, _record: object) -> None:
    with _without_busy_timeout(connection) as patience:
        # For a new file SQLite does not wait at all.
        if not _execute_when_free(connection, "PRAGMA journal_mode=WAL", patience):
            raise sqlite3.OperationalError("database is locked")
    connection.execute("PRAGMA foreign_keys=ON")
    # What was committed outlives a loss of power. Some builds of SQLite have less by default.
    connection.execute("PRAGMA synchronous=FULL")


def _begin_immediate(
    connection: Connection, _cursor: DBAPICursor, statement: str, *_ignored: object
) -> None:
    if not (statement.lstrip().upper().startswith(_READS) or is_writing(connection)):
        lock(connection)


@contextmanager
def _without_busy_timeout(own: Any) -> Iterator[float]:
    """Yield the connection's busy timeout in seconds; SQLite itself does not wait in the block."""
    patience = own.execute("PRAGMA busy_timeout").fetchone()[0]
    own.execute("PRAGMA busy_timeout = 0")
    try:
        yield patience / 1_000
    finally:
        own.execute(f"PRAGMA busy_timeout = {patience}")


def _execute_when_free(own: Any, statement: str, seconds: float) -> bool:
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


def _wake_writer(*_ignored: object) -> None:
    with _writer_gone:
        _writer_gone.notify()


def _read_at_once(
    connection: Connection,
    cursor: DBAPICursor,
    _statement: str,
    _parameters: object,
    context: DefaultExecutionContext,
    _many: object,
) -> None:
    """Fetch all that a read before the first write finds.

    Left open, it would hold on to what it sees, and the write would fail after somebody else's.
    """
    if cursor.description and not is_writing(connection):
        context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(cursor)


def _replace_read_only(context: ExceptionContext) -> None:
    """Drop connections made while the file could only be read: a new one may be able to write."""
    name = getattr(context.original_exception, "sqlite_errorname", "")
    if name.startswith("SQLITE_READONLY"):
        context.is_disconnect = True
