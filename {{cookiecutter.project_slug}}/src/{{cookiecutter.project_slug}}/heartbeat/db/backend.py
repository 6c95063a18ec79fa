"""What databases do differently: a portable default, which the class of each database overrides."""

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache, partial
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Executable,
    Insert,
    Select,
    Table,
    Update,
    bindparam,
    event,
    update,
)
from sqlalchemy.exc import InvalidatePoolError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from .driver_errors import replace_read_only
from .limits import BOOKKEEPING, CONNECT_SECONDS, MIGRATION, PING_SECONDS, Limits
from .text import UTF_8
from .watch import watch, watched

# A connection that was idle for these seconds is tested whether its server is still there; testing
# before each use would be a good part of what a short run costs.
PING_AFTER = 1.0
TAKES_TOO_LONG = f"another process has been migrating for {MIGRATION.lock} s: end it, and retry"

STRING = r"'(?:[^']|'')*'"
STRING_WITH_BACKSLASHES = r"'(?:[^'\\]|''|\\.)*'"
NAME = r'"(?:[^"]|"")*"|`[^`]*`'
COMMENT = r"/\*.*?\*/"


class Backend:
    """A database server."""

    # Whether one statement may write two tables.
    chains_writes = False
    # Whether a transaction that has written blocks all other writers.
    has_one_writer = False
    # The database that every server has, and the statement that creates a new one.
    catalog = "information_schema"
    create_statement = "CREATE DATABASE {name}"
    # A pattern of what is not code in a statement.
    not_code: str
    # A pattern of statements that commit by themselves, or may do so.
    commits_itself: re.Pattern[str] | None = None

    def engine_options(self, _url: URL, _limits: Limits) -> dict[str, Any]:
        """Return the arguments for `create_engine`."""
        # MariaDB's default, REPEATABLE READ, makes healthy runs deadlock at their finish.
        return {"isolation_level": "READ COMMITTED"}

    def prepare(self, engine: Engine, limits: Limits) -> None:
        """Limit how long the connections of an engine wait, and test idle ones."""
        dialect: Any = engine.dialect
        for name in ("do_execute", "do_executemany", "do_execute_no_params", "do_commit"):
            setattr(dialect, name, watched(getattr(dialect, name), limits.answer))
        # A rollback is not worth a long wait.
        dialect.do_rollback = watched(dialect.do_rollback, BOOKKEEPING.answer)
        dialect.do_ping = watched(dialect.do_ping, PING_SECONDS)
        # Before SQLAlchemy's own set-up of a connection, which asks the server first questions.
        event.listen(engine, "connect", partial(watch.add, CONNECT_SECONDS), insert=True)
        event.listen(engine, "close", watch.remove)
        event.listen(engine, "handle_error", watch.explain)
        event.listen(engine, "handle_error", replace_read_only)
        self.limit_transactions(engine, limits)
        event.listen(engine, "connect", watch.set_up_ended)
        event.listen(engine, "checkin", _mark_idle)
        event.listen(engine, "checkout", partial(_ping_idle, engine))

    def limit_transactions(self, engine: Engine, limits: Limits) -> None:
        """Set the limits that the server itself keeps to, for each transaction of an engine."""

    def limit_transaction(self, connection: Connection, limits: Limits) -> None:
        """Set other limits for the rest of an open transaction; `answer` is the server's alone."""

    def encodings(self, connection: Any) -> list[str]:
        """Return the encodings through which a text is stored, as the driver names them."""
        return [getattr(connection, "encoding", UTF_8)]

    def limited_columns(self, _connection: Connection, _tables: Iterable[str]) -> list[str]:
        """Return the columns of some tables that do not hold any Unicode."""
        return []

    def insert_new(
        self,
        connection: Connection,
        table: Table,
        rows: Sequence[Mapping[str, Any]],
        key: str,
        candidates: Select[str, int],
    ) -> dict[str, int]:
        """Insert rows with the same columns; return the ids of the inserted ones by their `key`.

        Rows that a unique constraint refuses are left out. `candidates` selects key and id, for
        databases that do not return them by themselves.
        """
        connection.execute(self.insert_ignoring(table), rows)
        keys = {row[key] for row in rows}
        return {name: id_ for name, id_ in connection.execute(candidates) if name in keys}

    def insert_ignoring(self, table: Table) -> Insert:
        """Return the statement that inserts a row unless a unique constraint refuses it."""
        raise NotImplementedError

    def update_rows(
        self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Write the columns that all of `rows` have to the table's rows of their `id`."""
        connection.execute(
            _update_row(table, (*rows[0],)),
            [{f"new_{name}": value for name, value in row.items()} for row in rows],
        )

    @contextmanager
    def reading_only(self, session: Session) -> Iterator[None]:
        """Begin a transaction of the session that writes nothing within the block."""
        session.connection().exec_driver_sql("SET TRANSACTION READ ONLY")
        yield

    def check_deferred(self, connection: Connection) -> None:
        """Check the constraints that the commit would check, where a statement can do that."""

    def break_off(self, connection: Any) -> None:
        """End the statement that another thread is executing on a driver's connection."""
        watch.shut_down(connection)

    def refuse_left_transaction(self, engine: Engine) -> None:
        """Raise SecondSessionError if this thread keeps others from writing."""

    def end_left_transaction(self, engine: Engine) -> None:
        """End a transaction that this thread left open where it keeps others from writing."""

    def open_transaction(self, _connection: Connection) -> tuple[int, str] | None:
        """Return what names the connection's transaction on the server, if anything does."""
        return None

    def end_transaction(self, engine: Engine, process: int, began: str) -> None:
        """End the server's session in which that transaction is open, with its statement and locks.

        Nothing happens when it has ended already, or when the server cannot be reached.
        """
        with suppress(SQLAlchemyError), engine.connect() as connection:
            connection.execute(self.kill(process, began))

    def kill(self, process: int, began: str) -> Executable:
        """Return the statement for `end_transaction`."""
        raise NotImplementedError

    def statements_in(self, code: str) -> list[str]:
        """Return the statements that the server takes out of a text, which has only code left."""
        return [code]

    def create_folder(self, _url: URL) -> bool:
        """Make the folder of the database, and return True, where a database is a file."""
        return False

    def create_command(self, create: str, user: str, quote: Callable[[str], str]) -> list[str]:
        """Return a command by which an administrator creates a database owned by `user`."""
        raise NotImplementedError

    @contextmanager
    def migration_lock(self, _connection: Connection) -> Iterator[None]:
        """Hold the lock under which one process migrates; the others wait and find nothing to do.

        Raises DatabaseNotReadyError, or the driver's error, if that takes longer than MIGRATION
        allows.
        """
        yield

    def require_file(self, _url: URL) -> None:
        """Raise DatabaseNotReadyError where connecting would make an empty database."""


@cache
def _update_row(own: Table, names: tuple[str, ...]) -> Update:
    """Build a statement that changes a row; its parameters are not called like columns."""
    new = {name: bindparam(f"new_{name}", type_=own.c[name].type) for name in names}
    return update(own).where(own.c.id == new.pop("id")).values(new)


def _mark_idle(_connection: object, record: ConnectionPoolEntry) -> None:
    record.info["idle_since"] = time.monotonic()


def _ping_idle(
    engine: Engine, connection: Any, record: ConnectionPoolEntry, _proxy: object
) -> None:
    """Replace connections whose server is gone, like `pool_pre_ping`, but test only idle ones."""
    if time.monotonic() - record.info.get("idle_since", math.inf) < PING_AFTER:
        return
    try:
        engine.dialect.do_ping(connection)
    except engine.dialect.loaded_dbapi.Error as error:
        raise InvalidatePoolError from error


def send(connection: Any, statement: str) -> None:
    """Execute a statement on a driver's connection, or on that of the pool."""
    with closing(connection.cursor()) as cursor:
        cursor.execute(statement)
