"""What a transaction can be asked that differs between databases."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Executable, column, func, select, table, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from . import sqlite
from .watch import watch


def begin_writing(
    session: Session, waiters: sqlite.Waiters | None = None, *, wait: bool = True
) -> bool:
    """Open the session's write transaction now, so that what it reads next is what it changes.

    On SQLite this waits for the write lock, or returns False at once if it must not `wait` and
    another transaction holds it. Raises DatabaseBusyError if the `waiters` are too many, or have
    waited too long. Elsewhere rows are locked one by one instead.
    """
    if session.get_bind().dialect.name != "sqlite":
        return True
    connection = session.connection()
    return sqlite.is_writing(connection) or sqlite.lock(connection, waiters, wait=wait)


@contextmanager
def reading_only(session: Session) -> Iterator[None]:
    """Begin a transaction of the session that writes nothing within the block."""
    connection, lite = session.connection(), session.get_bind().dialect.name == "sqlite"
    connection.exec_driver_sql("PRAGMA query_only = ON" if lite else "SET TRANSACTION READ ONLY")
    try:
        yield
    finally:
        if lite:  # the connection goes back to the pool
            connection.exec_driver_sql("PRAGMA query_only = OFF")


def break_off(connection: Connection) -> None:
    """End the statement that another thread is executing on the connection."""
    own: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite":
        own.interrupt()
    else:
        watch.shut_down(own)


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
        # The moment it began distinguishes it from a later transaction with the same process id.
        statement = select(func.pg_terminate_backend(sessions.c.pid)).where(
            sessions.c.pid == process, sessions.c.xact_start == datetime.fromisoformat(began)
        )
    with suppress(SQLAlchemyError), engine.connect() as connection:
        connection.execute(statement)
