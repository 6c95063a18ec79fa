"""Connections: one engine for each database kind, with what the engine's rules need set on it.

This module, `models/meta.py` and `migrations/server.py` alone know which database it is.
"""

import math
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Executable,
    FromClause,
    column,
    create_engine,
    event,
    false,
    func,
    make_url,
    select,
    table,
    text,
)
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InvalidatePoolError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from .errors import DatabaseNotReadyError, SettingsError
from .redaction import shown

# SQLAlchemy's own choice for a bare URL changed between versions: written out, it cannot.
_DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
# Statements that need no write lock on SQLite. All else begins an immediate transaction, since one
# that reads first and writes later fails at once when somebody else has written in between.
_READS = ("SELECT", "PRAGMA", "EXPLAIN", "VALUES", "BEGIN")
# A connection that was not used for so many seconds is asked whether its server is still there;
# asking before each use would be a good part of what a short run costs.
PING_AFTER = 1.0
# On SQLite a flow that has written holds the lock for as long as it runs: who waits for it must
# outlast any flow, since giving up would fail a healthy run.
_LOCK_SECONDS = 86_400.0
# How soon who waits for it looks again, in seconds, and what wakes the waiting before that.
LOOK_AGAIN = 0.01
_writer_gone = threading.Condition()


def database_url(settings: Mapping[str, Any]) -> URL:
    """Return the database's URL: `DATABASE_URL` if it is set, else `sqlalchemy.url`.

    Raises SettingsError, without the URL's password, when there is none or it cannot be read.
    """
    raw = os.environ.get("DATABASE_URL") or settings.get("sqlalchemy.url")
    example = "such as sqlite:///var/app.sqlite or postgresql+psycopg://localhost/app"
    if not raw:
        message = f"no database: set sqlalchemy.url in the .ini file, or DATABASE_URL, {example}"
        raise SettingsError(message)
    try:
        url = make_url(raw)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        message = f"sqlalchemy.url or DATABASE_URL is no database URL: write one {example}"
        raise SettingsError(message) from None
    return url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))


def make_engine(url: URL, *, pool_size: int = 5, lock_seconds: float = _LOCK_SECONDS) -> Engine:
    """Return an Engine for `url`. Gives up waiting for SQLite's write lock after `lock_seconds`.

    Raises SettingsError when the URL's driver is not installed or not known.
    """
    options: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 20}
    if url.get_backend_name() == "sqlite":
        # The driver's own transactions begin too late, and not at all before a savepoint.
        options["connect_args"] = {"isolation_level": None, "timeout": lock_seconds}
        # Who waits for the write lock waits on a connection, and nobody may lack one for that.
        options["max_overflow"] = -1
    else:
        # MariaDB's default, REPEATABLE READ, makes healthy runs deadlock at their finish.
        options |= {"isolation_level": "READ COMMITTED"}
    if url.drivername == "postgresql+psycopg":
        # A pooling proxy hands out connections that lack what was prepared on others.
        options["connect_args"] = {"prepare_threshold": None}
    try:
        # Parameters stay out of error messages, which are stored and logged.
        engine = create_engine(url, hide_parameters=True, **options)
    except (ImportError, ArgumentError, TypeError) as error:
        told = f"the database driver of {url.drivername!r} cannot be used ({error})"
        raise SettingsError(f"{told}: install it or mend sqlalchemy.url or DATABASE_URL") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "before_cursor_execute", _begin_immediate)
        event.listen(engine, "after_cursor_execute", _read_at_once)
        event.listen(engine, "checkin", _wake_writer)
    else:
        event.listen(engine, "checkin", _note_rest)
        event.listen(engine, "checkout", partial(_ping_rested, engine))
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    _execute_when_free(connection, "PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA foreign_keys=ON")
    # What was committed outlives a loss of power. Some builds of SQLite have less by default.
    connection.execute("PRAGMA synchronous=FULL")


def _note_rest(_connection: object, record: ConnectionPoolEntry) -> None:
    record.info["rests_since"] = time.monotonic()


def _ping_rested(
    engine: Engine, connection: Any, record: ConnectionPoolEntry, _proxy: object
) -> None:
    """Give no connection whose server is gone, as `pool_pre_ping` does, but ask only the rested."""
    if time.monotonic() - record.info.get("rests_since", math.inf) < PING_AFTER:
        return
    try:
        engine.dialect.do_ping(connection)
    except engine.dialect.loaded_dbapi.Error as error:
        raise InvalidatePoolError from error


def _begin_immediate(
    connection: Connection, _cursor: DBAPICursor, statement: str, *_ignored: object
) -> None:
    if not (statement.lstrip().upper().startswith(_READS) or _is_writing(connection)):
        _execute_when_free(connection.connection.dbapi_connection, "BEGIN IMMEDIATE")


def _execute_when_free(own: Any, statement: str, *, wait: bool = True) -> bool:
    """Execute what takes a lock on SQLite: at once, or when nobody else has it.

    SQLite itself would look again after pauses of up to 100 ms, and for the mode of a new file not
    at all. Those of this process wake each other, and look every few milliseconds for the others.
    """
    patience = own.execute("PRAGMA busy_timeout").fetchone()[0]
    deadline = time.monotonic() + patience / 1_000
    own.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                own.execute(statement)
            except sqlite3.OperationalError as error:
                is_busy = error.sqlite_errorname.startswith("SQLITE_BUSY")
                if is_busy and not wait:
                    return False
                if not is_busy or time.monotonic() > deadline:
                    raise OperationalError(statement, None, error) from error
            else:
                return True
            with _writer_gone:
                _writer_gone.wait(LOOK_AGAIN)
    finally:
        own.execute(f"PRAGMA busy_timeout = {patience}")


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
    if cursor.description and not _is_writing(connection):
        context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(cursor)


def _is_writing(connection: Connection) -> bool:
    # It is open here, whatever its type allows.
    return bool(connection.connection.dbapi_connection.in_transaction)  # type: ignore[union-attr]


def begin_writing(session: Session, *, wait: bool = True) -> bool:
    """Open the session's write transaction now, so that what it reads next is what it changes.

    On SQLite this waits for the write lock, or returns False at once if it must not `wait` and
    somebody else holds it. Elsewhere rows are locked one by one instead.
    """
    if session.get_bind().dialect.name != "sqlite":
        return True
    own = session.connection().connection.dbapi_connection
    return _execute_when_free(own, "BEGIN IMMEDIATE", wait=wait)


@contextmanager
def reading_only(session: Session) -> Iterator[None]:
    """Let the session's transaction, which is to begin with this, write nothing in the block."""
    connection, lite = session.connection(), session.get_bind().dialect.name == "sqlite"
    connection.exec_driver_sql("PRAGMA query_only = ON" if lite else "SET TRANSACTION READ ONLY")
    try:
        yield
    finally:
        if lite:  # the connection goes back to the pool
            connection.exec_driver_sql("PRAGMA query_only = OFF")


def open_transaction(connection: Connection) -> tuple[int, str] | None:
    """Return what names the connection's transaction on the server; None on SQLite, without one."""
    if connection.dialect.name == "sqlite":
        return None
    if connection.dialect.name == "postgresql":
        process, began = connection.execute(select(func.pg_backend_pid(), func.now())).one()
        return process, began.isoformat()
    return connection.execute(select(func.connection_id())).scalar_one(), ""


def end_transaction(engine: Engine, process: int, began: str) -> None:
    """End the server's session in which that transaction is open, with its statement and locks.

    Nothing happens when it has ended already, or when the server cannot be reached.
    """
    statement: Executable = text("KILL :process").bindparams(process=process)
    if engine.dialect.name == "postgresql":
        sessions = table("pg_stat_activity", column("pid"), column("xact_start"))
        # The moment it began tells it from a later one, of whoever has this process by then.
        statement = select(func.pg_terminate_backend(sessions.c.pid)).where(
            sessions.c.pid == process, sessions.c.xact_start == datetime.fromisoformat(began)
        )
    with suppress(SQLAlchemyError), engine.connect() as connection:
        connection.execute(statement)


def require_reachable(engine: Engine) -> None:
    """Raise DatabaseNotReadyError, naming the cause, if no connection can be made."""
    file = engine.url.database or ":memory:"
    # Connecting would make an empty one.
    if engine.dialect.name == "sqlite" and not (file == ":memory:" or Path(file).exists()):
        raise DatabaseNotReadyError(
            f"the database {file} cannot be reached (there is no such file): run `heartbeat "
            "migrate`, or mend sqlalchemy.url or DATABASE_URL"
        )
    try:
        engine.connect().close()
    except DBAPIError as error:
        raise DatabaseNotReadyError(
            f"the database {shown(engine.url)} cannot be reached ({reason(error)}): start its "
            "server, or mend sqlalchemy.url or DATABASE_URL"
        ) from error


def require_skip_locked(connection: Connection, table: FromClause) -> None:
    """Raise DatabaseNotReadyError if the server cannot pass over locked rows, as claims do.

    Asked by a statement that locks no row, whatever the server's version says.
    """
    try:
        connection.execute(select(table.c.id).where(false()).with_for_update(skip_locked=True))
    except DBAPIError as error:
        dialect = connection.dialect
        kind = "mariadb" if getattr(dialect, "is_mariadb", False) else dialect.name
        version = ".".join(map(str, dialect.server_version_info or ()))
        where = shown(connection.engine.url)
        raise DatabaseNotReadyError(
            f"the server of {where}, {kind} {version}, refuses FOR UPDATE SKIP LOCKED "
            f"({reason(error)}): use PostgreSQL 9.5, MySQL 8.0.1, MariaDB 10.6 or newer"
        ) from error


def reason(error: DBAPIError) -> str:
    """Return what the driver says, in one line: some give it as the last of several values."""
    # psycopg shows the place in the statement below what it says.
    if said := getattr(getattr(error.orig, "diag", None), "message_primary", None):
        return str(said)
    arguments = getattr(error.orig, "args", ())
    lines = str(arguments[-1] if arguments else error.orig).strip().splitlines()
    # psycopg ends with a question about what it has said before.
    return next((line for line in reversed(lines) if not line.endswith("?")), lines[-1]).strip()
