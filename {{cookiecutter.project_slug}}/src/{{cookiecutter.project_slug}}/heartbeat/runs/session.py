"""The session that a flow receives, and the transaction that the engine ends for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import transaction
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.orm import Session
from zope.sqlalchemy.datamanager import STATUS_CHANGED, join_transaction

from ..errors import SessionControlError


class FlowSession(Session):
    """A flow's session. The engine alone ends its transaction; a flow that tries is told so."""

    # Set when it has begun: one that was not used costs neither a transaction nor a connection.
    manager: transaction.TransactionManager | None = None
    ended_by_engine = False
    # The first thing that forbids a success, even if the flow swallows it.
    forbidden_by: BaseException | None = None
    # The first error within a savepoint that has not ended yet.
    failed_in_savepoint: BaseException | None = None

    def connection(self, *arguments: Any, **options: Any) -> Connection:
        """Return the connection, isolated as all of the engine: other options come too late."""
        if self.manager is None:
            super().connection()
        return super().connection(*arguments, **options)

    def commit(self) -> None:
        """Refuse: the engine commits, together with the run's success."""
        self._refuse("commit")
        super().commit()

    def rollback(self) -> None:
        """Refuse: a flow that raises is rolled back by the engine."""
        self._refuse("rollback")
        super().rollback()

    def close(self) -> None:
        """Refuse a flow; let the transaction manager close when it has ended."""
        self._refuse("close")
        super().close()

    def _refuse(self, call: str) -> None:
        if not self.ended_by_engine:
            error = SessionControlError(call)
            self.forbidden_by = self.forbidden_by or error
            raise error


def _refuse_commit(session: FlowSession) -> None:
    """Refuse a commit that goes past the session's own method."""
    if not session.in_nested_transaction():
        session._refuse("commit")  # noqa: SLF001 - the same rule, told by the session


def _join(session: FlowSession, _transaction: object, connection: Connection) -> None:
    """Let a session that begins join a transaction manager of its own; `request.tm` is not touched.

    It counts as changed from the start, since zope.sqlalchemy does not notice what text SQL writes.
    """
    if session.manager is None:
        session.manager = transaction.TransactionManager(explicit=True)
        session.manager.begin()
        join_transaction(session, STATUS_CHANGED, session.manager)
        connection.execution_options(flow_session=session)


# Once for all of them: to listen to each session anew would cost a third of a short run.
event.listen(FlowSession, "after_begin", _join)
event.listen(FlowSession, "before_commit", _refuse_commit)


def watch_errors(engine: Engine) -> None:
    """Let the sessions of flows learn of every database error. To be called once an engine."""
    event.listen(engine, "release_savepoint", _keep_error_of_savepoint)
    event.listen(engine, "after_cursor_execute", _forget_error_of_savepoint)
    event.listen(engine, "handle_error", _note_first_error)


@contextmanager
def flow_transaction(engine: Engine) -> Iterator[FlowSession]:
    """Give a flow's session; at the end commit what began with its first use, or abort."""
    session = FlowSession(engine)
    try:
        yield session
        session.ended_by_engine = True
        if session.manager:
            session.manager.commit()
    except BaseException:
        session.ended_by_engine = True
        if session.manager:
            session.manager.abort()
        raise
    finally:
        session.close()


def _flow_session(connection: Connection | None) -> FlowSession | None:
    return connection.get_execution_options().get("flow_session") if connection else None


def _note_first_error(context: ExceptionContext) -> None:
    """Remember a flow's first database error; one within a savepoint may yet be undone."""
    connection, session = context.connection, _flow_session(context.connection)
    if connection is None or session is None:
        return
    error = session.failed_in_savepoint or context.sqlalchemy_exception
    error = error or context.original_exception
    # Where going back fails, the savepoint is gone: a deadlock on MySQL undoes all that the flow
    # wrote before, and what it writes afterwards would be kept alone.
    if connection.in_nested_transaction() and not _goes_back(context.statement):
        session.failed_in_savepoint = error
    else:
        session.forbidden_by = session.forbidden_by or error


def _keep_error_of_savepoint(connection: Connection, *_ignored: object) -> None:
    """Forbid the success: a savepoint that is released undoes nothing of what broke in it."""
    if session := _flow_session(connection):
        session.forbidden_by = session.forbidden_by or session.failed_in_savepoint


def _forget_error_of_savepoint(
    connection: Connection, _cursor: DBAPICursor, statement: str, *_ignored: object
) -> None:
    if _goes_back(statement) and (session := _flow_session(connection)):
        session.failed_in_savepoint = None


def _goes_back(statement: str | None) -> bool:
    return (statement or "").startswith("ROLLBACK TO SAVEPOINT")
