"""Transactions: when they begin to write, and which limits they have."""

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from .backends import backend_of
from .limits import Limits
from .write_lock import Waiters, is_writing, lock


def begin_writing(session: Session, waiters: Waiters | None = None, *, wait: bool = True) -> bool:
    """Begin to write before the first read, so that no other transaction writes in between.

    On SQLite this waits for the write lock; if `wait` is false and another transaction holds it,
    this returns False at once. Raises DatabaseBusyError if the limit of `waiters` is reached. Other
    databases do nothing here: they lock row by row.
    """
    if not backend_of(session.get_bind()).has_one_writer:
        return True
    connection = session.connection()
    return is_writing(connection) or lock(connection, waiters, wait=wait)


def limit_transaction(connection: Connection, limits: Limits) -> None:
    """Set other limits for the rest of an open transaction; `answer` is the server's alone."""
    backend_of(connection).limit_transaction(connection, limits)
