"""PostgreSQL, also behind a proxy that pools transactions."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache, partial
from typing import Any

from sqlalchemy import (
    ARRAY,
    URL,
    Connection,
    Engine,
    Executable,
    Select,
    Table,
    TableValuedAlias,
    Update,
    bindparam,
    column,
    event,
    func,
    select,
    table,
    update,
)
from sqlalchemy.dialects.postgresql import Insert
from sqlalchemy.dialects.postgresql import insert as postgresql_insert

from .backend import COMMENT, NAME, STRING, STRING_WITH_BACKSLASHES, Backend, send
from .limits import BOOKKEEPING, LIBPQ_OPTIONS, Limits
from .text import UTF_8
from .watch import watched

_DOLLAR_STRING = r"\$(?P<tag>\w*)\$.*?\$(?P=tag)\$"
_NESTED_COMMENT = rf"/\*(?:{COMMENT}|.)*?\*/"


class PostgreSQL(Backend):
    """PostgreSQL."""

    chains_writes = True
    catalog = "postgres"
    not_code = (
        rf"\b[eE]{STRING_WITH_BACKSLASHES}|{STRING}|{_DOLLAR_STRING}|{NAME}"
        rf"|--[^\n]*|{_NESTED_COMMENT}"
    )

    def engine_options(self, url: URL, _limits: Limits) -> dict[str, Any]:
        """Return options that keep the driver from beginning transactions: `do_begin` does."""
        driver = url.get_driver_name()
        options = dict[str, Any](LIBPQ_OPTIONS) if driver in {"psycopg", "psycopg2"} else {}
        if driver == "psycopg":
            # A pooling proxy hands out connections that lack what was prepared on others. In
            # SQL_ASCII, which may be the encoding of the database, psycopg reads no text.
            options |= {"prepare_threshold": None, "client_encoding": "utf8"}
        arguments = {name: value for name, value in options.items() if name not in url.query}
        return {"isolation_level": "AUTOCOMMIT", "connect_args": arguments}

    def prepare(self, engine: Engine, limits: Limits) -> None:
        """Limit how long the connections of an engine wait."""
        dialect: Any = engine.dialect
        if dialect.driver == "psycopg2":  # it ends no transaction that it has not begun by itself
            dialect.do_commit = partial(send, statement="COMMIT")
            dialect.do_rollback = partial(send, statement="ROLLBACK")
        super().prepare(engine, limits)

    def limit_transactions(self, engine: Engine, limits: Limits) -> None:
        """Begin each transaction at READ COMMITTED and with its settings, in one round trip."""
        dialect: Any = engine.dialect
        begin = "BEGIN ISOLATION LEVEL READ COMMITTED; " + _settings(limits)

        def do_begin(connection: Any) -> None:
            # With an isolation level of its own, such as AUTOCOMMIT, the driver begins by itself.
            if not connection.info.get("own isolation"):
                send(connection, begin)

        # A flow's transaction has no limit, but its begin waits for nothing.
        dialect.do_begin = watched(do_begin, BOOKKEEPING.answer)
        event.listen(engine, "begin", _note_own_isolation)

    def limit_transaction(self, connection: Connection, limits: Limits) -> None:
        """Set other limits for the rest of an open transaction."""
        connection.exec_driver_sql(_settings(limits))

    def encodings(self, connection: Any) -> list[str]:
        """Return the encodings of the server, which a pooling proxy may not pass on, and ours."""
        info: Any = getattr(connection, "info", None)
        if not hasattr(info, "parameter_status"):
            return super().encodings(connection)
        return [info.parameter_status("server_encoding") or UTF_8, info.encoding]

    def insert_new(
        self,
        connection: Connection,
        table: Table,
        rows: Sequence[Mapping[str, Any]],
        key: str,
        candidates: Select[str, int],  # noqa: ARG002 - the database returns them
    ) -> dict[str, int]:
        """Insert rows with the same columns; return the ids of the inserted ones by their `key`."""
        names = (*rows[0],)
        statement = _insert_arrays(table, names).returning(table.c[key], table.c.id)
        return dict(connection.execute(statement, _as_arrays(names, rows)).all())

    def update_rows(
        self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Write the columns that all of `rows` have to the table's rows of their `id`."""
        names = (*rows[0],)
        connection.execute(_update_arrays(table, names), _as_arrays(names, rows))

    def check_deferred(self, connection: Connection) -> None:
        """Check the constraints that are deferred."""
        connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")

    def open_transaction(self, connection: Connection) -> tuple[int, str] | None:
        """Return the server's process, and when the transaction began."""
        process, began = connection.execute(select(func.pg_backend_pid(), func.now())).one()
        return process, began.isoformat()

    def kill(self, process: int, began: str) -> Executable:
        """Return the statement that ends a session."""
        sessions = table("pg_stat_activity", column("pid"), column("xact_start"))
        # The moment it began distinguishes it from a later transaction with the same process id.
        return select(func.pg_terminate_backend(sessions.c.pid)).where(
            sessions.c.pid == process, sessions.c.xact_start == datetime.fromisoformat(began)
        )

    def statements_in(self, code: str) -> list[str]:
        """Return several statements; the body of a function belongs to its own."""
        is_function = re.search(r"\bBEGIN\s+ATOMIC\b", code, re.IGNORECASE)
        return [code] if is_function else code.split(";")

    def create_command(self, create: str, user: str, quote: Callable[[str], str]) -> list[str]:
        """Return a command of psql."""
        return ["psql", "postgres", "-c", f"{create} OWNER {quote(user)}"]

    @contextmanager
    def migration_lock(self, connection: Connection) -> Iterator[None]:
        """Lock until the transaction ends, so that a pooling proxy between us is fine."""
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(744196403)")
        yield


def _note_own_isolation(connection: Connection) -> None:
    options = connection.get_execution_options()
    connection.connection.info["own isolation"] = "isolation_level" in options


def _settings(limits: Limits) -> str:
    """Return statements whose settings last until the transaction ends.

    So a proxy that pools transactions hands nothing of it on to somebody else.
    """
    settings = {
        "lock_timeout": limits.lock,
        "statement_timeout": limits.answer - 1,
        "idle_in_transaction_session_timeout": limits.idle,
    }
    return "; ".join(
        f"SET LOCAL {name} = {int(seconds * 1_000)}"
        for name, seconds in settings.items()
        if seconds < math.inf
    )


@cache
def _insert_arrays(own: Table, names: tuple[str, ...]) -> Insert:
    """Build a statement that inserts any number of rows."""
    rows = select(*_rows(own, names).c)
    statement = postgresql_insert(own).from_select(names, rows, include_defaults=False)
    return statement.on_conflict_do_nothing()


@cache
def _update_arrays(own: Table, names: tuple[str, ...]) -> Update:
    """Build a statement that changes any number of rows."""
    new = _rows(own, names).c
    values = {name: new[name] for name in names if name != "id"}
    return update(own).where(own.c.id == new.id).values(values)


def _rows(own: Table, names: tuple[str, ...]) -> TableValuedAlias:
    """Return rows of which each parameter gives a column, as an array.

    psycopg parses a statement with more than 50 parameters at each use, a third of a claim.
    """
    types = {name: own.c[name].type for name in names}
    # One dimension: else a JSON value that is a list would be taken for a further one.
    arrays = [
        bindparam(f"new_{name}", type_=ARRAY(kind, dimensions=1)) for name, kind in types.items()
    ]
    columns = [column(name, kind) for name, kind in types.items()]
    return func.unnest(*arrays).table_valued(*columns, name="new").render_derived()


def _as_arrays(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {f"new_{name}": [row[name] for row in rows] for name in names}
