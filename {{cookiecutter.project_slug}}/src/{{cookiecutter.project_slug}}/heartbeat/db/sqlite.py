"""SQLite: a file, its settings, and one writer at a time."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, Insert, QueuePool, Table, event
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from ..errors import DatabaseNotReadyError
from . import write_lock
from .backend import COMMENT, NAME, STRING, TAKES_TOO_LONG, Backend
from .driver_errors import replace_read_only
from .limits import BOOKKEEPING, MIGRATION, Limits
from .stored import decode
from .write_lock import LOCK_SECONDS

IN_MEMORY = {None, "", ":memory:"}
# Statements that need no write lock. All others begin an immediate transaction: one that reads
# first and writes later fails at once if another connection has written in between.
_READS = ("SELECT", "PRAGMA", "EXPLAIN", "VALUES", "BEGIN")


class SQLite(Backend):
    """SQLite, whose database is a file or in memory."""

    has_one_writer = True
    not_code = rf"{STRING}|{NAME}|\[[^\]]*\]|--[^\n]*|{COMMENT}"

    def engine_options(self, url: URL, limits: Limits) -> dict[str, Any]:
        """Return options that keep the driver from beginning transactions: it does so too late."""
        arguments: dict[str, Any] = {"isolation_level": None}
        arguments["timeout"] = min(limits.write_lock, LOCK_SECONDS)
        # Threads that wait for the write lock hold connections: other threads must still get one.
        options = {"max_overflow": -1, "connect_args": arguments}
        if url.database in IN_MEMORY:  # as tests of applications have it
            options["poolclass"] = QueuePool
            arguments["check_same_thread"] = False
        return options

    def prepare(self, engine: Engine, limits: Limits) -> None:
        """Register the listeners for locking, reading and checking the file."""
        file = _DatabaseFile(engine)
        event.listen(engine, "do_connect", file.refuse_if_removed)
        event.listen(engine, "connect", _prepare_connection)
        event.listen(engine, "connect", file.remember)
        event.listen(engine, "checkout", file.check)
        event.listen(engine, "before_cursor_execute", _begin_immediate)
        event.listen(engine, "after_cursor_execute", _read_at_once)
        event.listen(engine, "checkin", write_lock.forget_writer)
        event.listen(engine, "checkin", write_lock.wake_writer)
        event.listen(engine, "handle_error", replace_read_only)
        if limits == BOOKKEEPING:  # not for the sessions of flows
            event.listen(engine, "connect", _read_any_text)

    def insert_ignoring(self, table: Table) -> Insert:
        """Return an INSERT that skips conflicts: OR IGNORE would ignore other constraints, too."""
        return sqlite_insert(table).on_conflict_do_nothing()

    @contextmanager
    def reading_only(self, session: Session) -> Iterator[None]:
        """Forbid writes within the block alone, since the connection returns to the pool."""
        connection = session.connection()
        connection.exec_driver_sql("PRAGMA query_only = ON")
        try:
            yield
        finally:
            connection.exec_driver_sql("PRAGMA query_only = OFF")

    def break_off(self, connection: Any) -> None:
        """End the statement that another thread is executing on a driver's connection."""
        connection.interrupt()

    def refuse_left_transaction(self, engine: Engine) -> None:
        """Raise SecondSessionError if this thread left a transaction open that has written."""
        write_lock.refuse_left_transaction(engine)

    def end_left_transaction(self, engine: Engine) -> None:
        """Roll back the transaction that this thread left open on another connection."""
        write_lock.end_left_transaction(engine)

    def create_folder(self, url: URL) -> bool:
        """Make the folder: SQLite makes the file at the first connection."""
        if url.database not in IN_MEMORY:
            Path(url.database or "").resolve().parent.mkdir(0o700, parents=True, exist_ok=True)
        return True

    @contextmanager
    def migration_lock(self, connection: Connection) -> Iterator[None]:
        """Lock the folder of the file; the system unlocks it if this process ends.

        The write lock would block an Alembic environment that opens a connection of its own.
        """
        file = connection.engine.url.database
        if file in IN_MEMORY:
            yield
            return
        import fcntl  # not on every system that can import this

        folder = os.open(Path(file or "").resolve().parent, os.O_RDONLY)
        deadline = time.monotonic() + MIGRATION.lock
        try:
            while True:
                with suppress(BlockingIOError):
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                if time.monotonic() > deadline:
                    raise DatabaseNotReadyError(TAKES_TOO_LONG)
                time.sleep(0.1)
            yield
        finally:
            os.close(folder)

    def require_file(self, url: URL) -> None:
        """Raise DatabaseNotReadyError if there is no file: connecting would make an empty one."""
        if url.database not in IN_MEMORY and not Path(url.database or "").exists():
            raise DatabaseNotReadyError(
                f"the database {url.database} cannot be reached (there is no such file): run "
                "`heartbeat migrate`, or fix sqlalchemy.url or DATABASE_URL"
            )


class _DatabaseFile:
    """The file of an engine. A connection whose file was removed or replaced is not used.

    SQLite would go on working with a file that no other connection can see.
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
        """Make the pool reconnect if its connections have opened another file."""
        if record.info["file"] != self._identity():
            raise InvalidatePoolError

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


def _read_any_text(connection: Any, _record: object) -> None:
    """Read a text that is not UTF-8 as Unreadable; the driver would fail on the whole result."""
    connection.text_factory = decode


def _prepare_connection(connection: Any, _record: object) -> None:
    with write_lock.without_busy_timeout(connection) as timeout:
        # SQLite itself does not wait for the lock of a new file.
        if not write_lock.execute_when_free(connection, "PRAGMA journal_mode=WAL", timeout):
            raise sqlite3.OperationalError("database is locked")
    connection.execute("PRAGMA foreign_keys=ON")
    # Commits survive a power failure. The default of some builds of SQLite is less strict.
    connection.execute("PRAGMA synchronous=FULL")


def _begin_immediate(
    connection: Connection, _cursor: DBAPICursor, statement: str, *_ignored: object
) -> None:
    if not (statement.lstrip().upper().startswith(_READS) or write_lock.is_writing(connection)):
        write_lock.lock(connection)


def _read_at_once(
    connection: Connection,
    cursor: DBAPICursor,
    _statement: str,
    _parameters: object,
    context: DefaultExecutionContext,
    _many: object,
) -> None:
    """Fetch all rows of a query at once, before the first write.

    An open query would keep its snapshot, and a write would fail after one of another connection.
    """
    if cursor.description and not write_lock.is_writing(connection):
        context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(cursor)
