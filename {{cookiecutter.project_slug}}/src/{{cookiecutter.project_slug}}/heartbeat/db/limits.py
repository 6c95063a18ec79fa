"""How long a connection may wait: for a lock, for an answer, and for a network that is silent.

Three layers, since each sees what the others do not. TCP gives up a peer that is gone. The watch
closes a connection whose answer does not come in time, whatever the reason. The server ends the
transaction of a client that it hears nothing from, and so frees its locks.
"""

import math
import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import Dialect, ExceptionContext

from .watch import watch, watched

# The limit in seconds for making a connection, sign-in included, and for its set-up.
CONNECT_SECONDS = 8
# The limit in seconds for the test whether the server of an idle connection is still there.
PING_SECONDS = 3.0
# How long TCP waits for an acknowledgement, and how it probes an idle connection, in seconds. Not
# every system has all of these options.
ACKNOWLEDGE_SECONDS = 10
PROBE_AFTER, PROBE_EVERY, PROBES = 5, 3, 3
TCP_OPTIONS = {
    "TCP_NODELAY": 1,
    "TCP_USER_TIMEOUT": ACKNOWLEDGE_SECONDS * 1_000,
    "TCP_KEEPIDLE": PROBE_AFTER,
    "TCP_KEEPINTVL": PROBE_EVERY,
    "TCP_KEEPCNT": PROBES,
}
# A session that began while the database could only be read may stay read-only afterwards. This is
# PostgreSQL's SQLSTATE for it, and the error codes of MySQL and MariaDB.
READ_ONLY = frozenset({"25006", 1290, 1792, 1836})
MYSQL_CANNOT_CONNECT = 2003


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the connections of an engine wait, in seconds. Infinity means no limit.

    lock: for a row or a table that another transaction holds.
    answer: for the answer to a statement or a commit.
    idle: how long the server keeps a transaction whose client sends nothing.
    write_lock: for the write lock of SQLite, which a flow that has written holds until it ends.
    """

    lock: float = math.inf
    answer: float = math.inf
    idle: float = math.inf
    write_lock: float = math.inf


# The engine's own transactions: short, and done again later where they fail. The transaction of a
# client that has vanished must be over soon: its locks keep other processes from their work.
BOOKKEEPING = Limits(lock=10, answer=12, idle=15)
# What ends a flow's transaction. Locks that a client has vanished with are gone before it gives up.
ENDING = Limits(lock=20, answer=25, idle=15)
# The application's own views and scripts.
DEFAULT = Limits(lock=60, write_lock=60)
# Migrations, which take turns and may have to wait for a flow.
MIGRATION = Limits(lock=600, write_lock=600)
# Flows, whose statements and pauses may be long.
UNLIMITED = Limits()


def set_limits(engine: Engine, limits: Limits) -> None:
    """Limit how long the connections of an engine of PostgreSQL, MySQL or MariaDB wait."""
    dialect: Any = engine.dialect
    if dialect.driver == "psycopg2":  # it ends no transaction that it has not begun by itself
        dialect.do_commit = partial(_send, statement="COMMIT")
        dialect.do_rollback = partial(_send, statement="ROLLBACK")
    for name in ("do_execute", "do_executemany", "do_execute_no_params", "do_commit"):
        setattr(dialect, name, watched(getattr(dialect, name), limits.answer))
    # Nothing that a rollback undoes is worth a long wait.
    dialect.do_rollback = watched(dialect.do_rollback, BOOKKEEPING.answer)
    dialect.do_ping = watched(dialect.do_ping, PING_SECONDS)
    # Before SQLAlchemy's own set-up of a connection, which asks the server first questions.
    event.listen(engine, "connect", partial(watch.add, CONNECT_SECONDS), insert=True)
    event.listen(engine, "close", watch.remove)
    event.listen(engine, "handle_error", watch.explain)
    event.listen(engine, "handle_error", _replace_read_only)
    if dialect.name == "postgresql":
        event.listen(engine, "begin", _note_own_isolation)
        dialect.do_begin = _begin_with(limits)
    else:
        event.listen(engine, "do_connect", _connect_pymysql)
        event.listen(engine, "connect", partial(_set_up_mysql, dialect, limits))
        dialect.do_begin = _restore_with(dialect, limits)
    event.listen(engine, "connect", watch.set_up_ended)


def limit_transaction(connection: Connection, limits: Limits) -> None:
    """Set other limits for the rest of an open transaction; `answer` is the server's alone."""
    dialect: Any = connection.dialect
    if dialect.name == "postgresql":
        connection.exec_driver_sql(_postgresql_settings(limits))
    elif dialect.name != "sqlite":
        connection.exec_driver_sql(_mysql_settings(dialect, limits))
        connection.connection.info["limited"] = True


def connect_arguments(driver: str) -> dict[str, Any]:
    """Return the arguments by which a driver of libpq's gives up a server that is silent."""
    if driver not in {"psycopg", "psycopg2"}:
        return {}
    return {
        "connect_timeout": CONNECT_SECONDS,
        "tcp_user_timeout": ACKNOWLEDGE_SECONDS * 1_000,
        "keepalives_idle": PROBE_AFTER,
        "keepalives_interval": PROBE_EVERY,
        "keepalives_count": PROBES,
    }


def _replace_read_only(context: ExceptionContext) -> None:
    """Make the pool drop its connections if this one may only read: a new one may write again."""
    if error_code(context.original_exception) in READ_ONLY:
        context.is_disconnect = True


def _note_own_isolation(connection: Connection) -> None:
    options = connection.get_execution_options()
    connection.connection.info["own isolation"] = "isolation_level" in options


def _begin_with(limits: Limits) -> Callable[..., Any]:
    """Return what begins a transaction of PostgreSQL, with its settings, in one round trip."""
    begin = "BEGIN ISOLATION LEVEL READ COMMITTED; " + _postgresql_settings(limits)

    def do_begin(connection: Any) -> None:
        # With an isolation level of its own, such as AUTOCOMMIT, the driver begins by itself.
        if not connection.info.get("own isolation"):
            _send(connection, begin)

    # A flow's transaction has no limit, but its begin waits for nothing.
    return watched(do_begin, BOOKKEEPING.answer)


def _postgresql_settings(limits: Limits) -> str:
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
        raise driver.OperationalError(MYSQL_CANNOT_CONNECT, message) from error
    own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in TCP_OPTIONS.items():
        if (option := getattr(socket, name, None)) is not None:
            own.setsockopt(socket.IPPROTO_TCP, option, value)
    with watch.limit(own.fileno(), CONNECT_SECONDS):
        connection.connect(own)
    return connection


def _mysql_settings(dialect: Any, limits: Limits) -> str:
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


def _set_up_mysql(dialect: Any, limits: Limits, connection: Any, _record: object) -> None:
    if limits != UNLIMITED:
        _send(connection, _mysql_settings(dialect, limits))


def _restore_with(dialect: Any, limits: Limits) -> Callable[..., Any]:
    """Return what undoes `limit_transaction` at the next begin: here it outlasts a transaction."""

    def do_begin(connection: Any) -> None:
        if connection.info.pop("limited", False):
            _send(connection, _mysql_settings(dialect, limits))

    return watched(do_begin, BOOKKEEPING.answer)


def error_code(error: BaseException | None) -> object:
    """Return what a driver's error is: PostgreSQL's SQLSTATE, MySQL's number, or SQLite's name."""
    number = next(iter(getattr(error, "args", ())), None)
    if isinstance(number, int):
        return number
    names = ("sqlstate", "pgcode", "sqlite_errorname")  # the second one is psycopg2's
    return next(filter(None, (getattr(error, name, None) for name in names)), None)


def _send(connection: Any, statement: str) -> None:
    with closing(connection.cursor()) as cursor:
        cursor.execute(statement)
