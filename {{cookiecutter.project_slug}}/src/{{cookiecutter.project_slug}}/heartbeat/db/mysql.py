"""MySQL and MariaDB."""

import json
import math
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Executable,
    Insert,
    Table,
    TextClause,
    column,
    event,
    func,
    select,
    table,
    text,
)
from sqlalchemy.dialects.mysql import insert as mysql_insert
from sqlalchemy.engine import Dialect

from ..errors import DatabaseNotReadyError
from .backend import COMMENT, NAME, STRING_WITH_BACKSLASHES, TAKES_TOO_LONG, Backend, send
from .limits import BOOKKEEPING, CONNECT_SECONDS, MIGRATION, TCP_OPTIONS, UNLIMITED, Limits
from .text import UNICODE
from .watch import watch, watched

CANNOT_CONNECT = 2003
# MySQL executes what stands in such a comment.
_EXECUTED_COMMENT = r"/\*M?!\d*(?P<executed>.*?)\*/"

# DDL, statements for administrators, and those that may contain any other.
_COMMITS_ITSELF = re.compile(
    r"""\s*(?:SET\s+STATEMENT\b.*?\bFOR\s+)?(
        (?: (?: CREATE | DROP ) (?! \s+ (?: OR \s+ REPLACE \s+ )? TEMPORARY )
          | ALTER | ANALYZE | CACHE | CALL | CASE | CHANGE | CHECK | EXECUTE | FLUSH | FOR | GRANT
          | IF | INSTALL | LOAD \s+ INDEX | LOOP | OPTIMIZE | PREPARE | RENAME | REPAIR | REPEAT
          | RESET | REVOKE | SET \s+ PASSWORD | START | STOP | TRUNCATE | UNINSTALL | WHILE
        ) \b (?: \s+ \w+ )?
        | BEGIN \s+ NOT \s+ ATOMIC
    )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
# Else the columns of a table made from JSON hold what the database's default character set does.
_TEXT = "LONGTEXT CHARACTER SET utf8mb4"


class MySQL(Backend):
    """MySQL and MariaDB."""

    create_statement = "CREATE DATABASE {name} CHARACTER SET utf8mb4"
    commits_itself = _COMMITS_ITSELF
    not_code = rf"{STRING_WITH_BACKSLASHES}|{NAME}|(?:--\s|\#)[^\n]*|{_EXECUTED_COMMENT}|{COMMENT}"

    def limit_transactions(self, engine: Engine, limits: Limits) -> None:
        """Set the limits of each session, and undo at the next begin what `limit_transaction` set.

        Here that outlasts a transaction.
        """
        dialect: Any = engine.dialect

        def set_up(connection: Any, _record: object) -> None:
            if limits != UNLIMITED:
                send(connection, _settings(dialect, limits))

        def do_begin(connection: Any) -> None:
            if connection.info.pop("limited", False):
                send(connection, _settings(dialect, limits))

        event.listen(engine, "do_connect", _connect_pymysql)
        event.listen(engine, "connect", set_up)
        dialect.do_begin = watched(do_begin, BOOKKEEPING.answer)

    def limit_transaction(self, connection: Connection, limits: Limits) -> None:
        """Set other limits for the rest of an open transaction."""
        connection.exec_driver_sql(_settings(connection.dialect, limits))
        connection.connection.info["limited"] = True

    def encodings(self, connection: Any) -> list[str]:
        """Return the encoding of the connection, which is made one that holds any Unicode."""
        name = getattr(connection, "character_set_name", str)()  # not every driver has it
        if name in {"utf8", "utf8mb3"}:
            connection.set_character_set(UNICODE["charset"])  # a superset
        return super().encodings(connection)

    def limited_columns(self, connection: Connection, tables: Iterable[str]) -> list[str]:
        """Return the columns of some tables that do not hold any Unicode."""
        names = ("table_schema", "table_name", "column_name", "character_set_name")
        columns = table("columns", *map(column, names), schema="information_schema").c
        limited = select(columns.table_name, columns.column_name).where(
            columns.table_schema == func.database(),
            columns.table_name.in_(tables),
            columns.character_set_name != UNICODE["charset"],
        )
        return sorted(f"{table}.{name}" for table, name in connection.execute(limited))

    def insert_ignoring(self, table: Table) -> Insert:
        """Return an INSERT with an update without effect: IGNORE would store truncated values."""
        return mysql_insert(table).on_duplicate_key_update(id=table.c.id)

    def update_rows(
        self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Write the columns that all of `rows` have to the table's rows of their `id`."""
        names = (*rows[0],)
        new = json.dumps([_as_stored(connection, table, row) for row in rows], ensure_ascii=False)
        connection.execute(_update_from_json(table, names), {"new": new})

    def open_transaction(self, connection: Connection) -> tuple[int, str] | None:
        """Return the id of the connection."""
        return connection.execute(select(func.connection_id())).scalar_one(), ""

    def kill(self, process: int, _began: str) -> Executable:
        """Return the statement that ends a session."""
        return text("KILL :process").bindparams(process=process)

    def create_command(self, create: str, user: str, _quote: Callable[[str], str]) -> list[str]:
        """Return a command of mysql: its own user must not be the only one with access."""
        name, account = create.split()[2], "'@'".join(user.rsplit("@", 1))
        return ["mysql", "-e", f"{create}; GRANT ALL ON {name}.* TO '{account}'"]

    @contextmanager
    def migration_lock(self, connection: Connection) -> Iterator[None]:
        """Hold a named lock."""
        lock = f"SELECT GET_LOCK('heartbeat_migrate', {MIGRATION.lock})"
        if not connection.exec_driver_sql(lock).scalar():
            raise DatabaseNotReadyError(TAKES_TOO_LONG)
        try:
            yield
        finally:
            connection.exec_driver_sql("SELECT RELEASE_LOCK('heartbeat_migrate')")


def _connect_pymysql(
    dialect: Dialect, _record: object, arguments: list[Any], parameters: dict[str, Any]
) -> Any:
    """Connect with a socket of our own: PyMySQL has no options for its limits."""
    if dialect.driver != "pymysql" or "unix_socket" in parameters:
        return None
    driver: Any = dialect.loaded_dbapi
    connection = driver.connect(*arguments, **{**parameters, "defer_connect": True})
    try:
        own = socket.create_connection((connection.host, connection.port), CONNECT_SECONDS)
    except OSError as error:
        message = f"cannot connect to {connection.host}:{connection.port} ({error})"
        raise driver.OperationalError(CANNOT_CONNECT, message) from error
    own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in TCP_OPTIONS.items():
        if (option := getattr(socket, name, None)) is not None:
            own.setsockopt(socket.IPPROTO_TCP, option, value)
    with watch.limit(own, CONNECT_SECONDS):
        connection.connect(own)
    return connection


def _settings(dialect: Any, limits: Limits) -> str:
    """Return a statement for a session of MySQL or MariaDB, which knows whole seconds."""
    settings = {"innodb_lock_wait_timeout": limits.lock, "lock_wait_timeout": limits.lock}
    if dialect.is_mariadb:
        settings |= {
            "max_statement_time": limits.answer - 1,
            "idle_transaction_timeout": limits.idle,
        }
    else:  # it has no limit for transactions alone
        settings["wait_timeout"] = limits.idle
    return "SET SESSION " + ", ".join(
        f"{name} = {'DEFAULT' if seconds == math.inf else max(math.ceil(seconds), 1)}"
        for name, seconds in settings.items()
    )


@cache
def _update_from_json(own: Table, names: tuple[str, ...]) -> TextClause:
    """Build a statement that changes any number of rows, whose values are one JSON text.

    The server converts the values: all but the id come as texts.
    """
    others = [name for name in names if name != "id"]
    columns = ", ".join(f"`{name}` {_TEXT} PATH '$.{name}'" for name in others)
    values = ", ".join(f"own.`{name}` = new.`{name}`" for name in others)
    rows = f"JSON_TABLE(:new, '$[*]' COLUMNS (id BIGINT PATH '$.id', {columns})) AS new"
    # Else the server might read the whole table, and wait for rows that others have locked.
    by_id = f"STRAIGHT_JOIN {own.name} AS own FORCE INDEX (PRIMARY) ON own.id = new.id"
    # The names are those of our own tables, and the values parameters.
    return text(f"UPDATE {rows} {by_id} SET {values}")  # noqa: S608 - names of ours


def _as_stored(connection: Connection, own: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a row as the driver gets them, times as text, without NULLs."""
    dialect, stored = connection.dialect, dict[str, Any]()
    for name, value in row.items():
        process = own.c[name].type.dialect_impl(dialect).bind_processor(dialect)
        bound = process(value) if process else value
        stored[name] = bound.isoformat(" ") if isinstance(bound, datetime) else bound
    # MySQL may take JSON's null for a text; what is missing is NULL everywhere.
    return {name: value for name, value in stored.items() if value is not None}
