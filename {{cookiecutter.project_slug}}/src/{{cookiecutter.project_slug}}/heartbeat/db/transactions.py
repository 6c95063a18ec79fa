"""Transactions: when they begin to write, and which limits they have."""

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from .backends import backend_of
from .limits import Limits
from .write_lock import Waiters, is_writing, lock


def begin_writing(session: Session, waiters: Waiters | None = None, *, wait: bool = True) -> bool:
    """Open the session's write transaction now, so that what it reads next is what it changes.

    On SQLite this waits for the write lock, or returns False at once if it must not `wait` and
    another transaction holds it. Raises DatabaseBusyError if the `waiters` are too many, or have
    waited too long. Elsewhere rows are locked one by one instead.
    """
    if not backend_of(session.get_bind()).has_one_writer:
        return True
    connection = session.connection()
    return is_writing(connection) or lock(connection, waiters, wait=wait)


def limit_transaction(connection: Connection, limits: Limits) -> None:
    """Set other limits for the rest of an open transaction; `answer` is the server's alone."""
    backend_of(connection).limit_transaction(connection, limits)
