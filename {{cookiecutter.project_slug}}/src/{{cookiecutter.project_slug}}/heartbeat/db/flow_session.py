"""The session that a flow receives, and the transaction that the engine ends for it."""

import logging
import os
import threading
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn
from weakref import WeakSet

import transaction
from sqlalchemy import Connection, Engine, NestedTransaction, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from zope.sqlalchemy.datamanager import STATUS_CHANGED, join_transaction

from ..errors import SessionControlError, SessionEndedError, SessionInUseError
from ..tracebacks import is_a
from .backends import backend_of
from .limits import ENDING
from .statements import transaction_control
from .transactions import limit_transaction
from .watch import answer_within

# How long a thread may take to notice that its statement was interrupted, in seconds.
LEAVING_SECONDS = 5.0
HINT = (
    "The flow's transaction ended with this error. To survive one, put the statement into "
    "`with run.session.begin_nested():` and catch the error outside of it."
)

log = logging.getLogger(__name__)

# How SQLAlchemy marks a statement whose error it expects and handles.
_SKIP_EVENTS = "skip_user_error_events"


class FlowSession(Session):
    """A flow's session. The engine alone ends its transaction; a flow that tries gets an error."""

    # Set at the first use: a session that is not used needs no transaction and no connection.
    manager: transaction.TransactionManager | None = None
    # The thread that has begun to end the session, which no other thread may use from then on.
    ended_by: int | None = None
    # The thread that is executing a statement.
    used_by: int | None = None
    # Set while the engine records the end of the run, whose errors are not the flow's.
    is_ending = False
    # The first error that forbids a success, even if the flow swallows it.
    forbidden_by: BaseException | None = None
    # The first error within a savepoint that has not ended yet.
    failed_in_savepoint: BaseException | None = None
    # The savepoint around all of the session, if it began within a transaction, as in a test.
    savepoint: NestedTransaction | None = None
    # The next statement is SQLAlchemy's test whether a table exists: it handles the error.
    error_expected = False

    def connection(self, *arguments: Any, **options: Any) -> Connection:
        """Return the connection. A flow's options cannot change its isolation level any more."""
        if self.manager is None:
            super().connection()
        return super().connection(*arguments, **options)

    def commit(self) -> None:
        """Refuse: the engine commits, together with the run's success."""
        self.refuse_control("run.session.commit()")
        super().commit()

    def rollback(self) -> None:
        """Refuse: a flow that raises is rolled back by the engine."""
        self.refuse_control("run.session.rollback()")
        super().rollback()

    def close(self) -> None:
        """Refuse, except when the transaction manager closes the session after its end."""
        self.refuse_control("run.session.close()")
        super().close()

    def refuse_control(self, call: str) -> None:
        """Raise SessionControlError, and forbid a success, unless the engine ends the session."""
        if self.ended_by != threading.get_ident():
            error = SessionControlError(call)
            self.forbidden_by = self.forbidden_by or error
            raise error

    def begin_end(self) -> None:
        """Refuse all other threads from now on.

        Raises SessionInUseError if one of them is executing a statement at this moment.
        """
        self.ended_by = threading.get_ident()
        if self.used_by not in {None, self.ended_by}:
            raise SessionInUseError

    def wait_until_left(self) -> None:
        """Wait until the other thread has received its error, before the rollback."""
        deadline = time.monotonic() + LEAVING_SECONDS
        while self.used_by not in {None, self.ended_by} and time.monotonic() < deadline:
            time.sleep(0.01)


class EndedSession(FlowSession):
    """The class of a flow's session after its run has ended: it refuses every call."""

    def __getattribute__(self, name: str) -> NoReturn:
        """Refuse."""
        raise SessionEndedError


# The sessions that a forked child must not use.
_open_sessions: WeakSet[FlowSession] = WeakSet()


def _end_in_child() -> None:
    for session in list(_open_sessions):
        session.__class__ = EndedSession


os.register_at_fork(after_in_child=_end_in_child)


def watch_session(engine: Engine) -> None:
    """Watch the sessions of flows on an engine. Call this once for each engine."""
    event.listen(engine, "before_cursor_execute", _check_statement)
    event.listen(engine, "set_connection_execution_options", _expect_error)
    event.listen(engine, "after_cursor_execute", _after_statement)
    event.listen(engine, "commit", _check_commit)
    event.listen(engine, "release_savepoint", _keep_error_of_savepoint)
    event.listen(engine, "handle_error", _note_first_error)


@contextmanager
def flow_transaction(bind: Engine | Connection, *, commit: bool = True) -> Iterator[FlowSession]:
    """Yield a flow's session; commit its transaction at the end, or abort it after an error.

    Within a transaction of `bind`, it is a savepoint. Without `commit`, it is always rolled back.

    Raises the first database error instead of those that are only its consequences: databases
    differ in what they report afterwards, and whether they report anything.
    """
    session = FlowSession(bind, join_transaction_mode="create_savepoint")
    _open_sessions.add(session)
    try:
        yield session
        session.begin_end()
        if not commit:
            _abort(session)
        elif session.manager:
            with answer_within(ENDING.answer):
                session.manager.commit()
    except BaseException as error:
        first = session.forbidden_by or session.failed_in_savepoint
        _abort(session)
        if first is None or not is_a(error, SQLAlchemyError):
            raise
        if is_a(first, SQLAlchemyError):
            with suppress(Exception):  # the flow may have changed its notes
                first.add_note(HINT)
        if first is error:
            raise
        raise first from first.__cause__
    finally:
        _open_sessions.discard(session)
        session.__class__ = EndedSession


@contextmanager
def ending(session: FlowSession) -> Iterator[Connection]:
    """Yield the connection of a flow's transaction, with limits, to record the end of its run."""
    session.begin_end()
    session.is_ending = True
    with answer_within(ENDING.answer):
        connection = session.connection()
        limit_transaction(connection, ENDING)
        yield connection


def break_off(session: FlowSession) -> None:
    """End a session that another thread may be using: roll back, and refuse every later call."""
    if type(session) is not EndedSession:
        _abort(session)
        session.__class__ = EndedSession


def _abort(session: FlowSession) -> None:
    """Roll back. A connection that is lost or used by another thread is closed instead."""
    try:
        try:
            session.begin_end()
        except SessionInUseError:
            connection = session.connection()
            backend_of(connection).break_off(connection.connection.dbapi_connection)
            session.wait_until_left()
        if session.manager:
            session.manager.abort()
    except Exception as error:  # noqa: BLE001 - the flow's own error matters, and not this one
        log.warning("a flow's connection is closed instead of rolled back: %s", error)
        with suppress(Exception):
            session.invalidate()


def _join(session: FlowSession, _transaction: object, connection: Connection) -> None:
    """Join a session that begins to a transaction manager of its own, never to `request.tm`.

    It counts as changed from the start, since zope.sqlalchemy does not notice writes of text SQL.
    """
    if session.manager is None:
        session.manager = transaction.TransactionManager(explicit=True)
        session.manager.begin()
        join_transaction(session, STATUS_CHANGED, session.manager)
        session.savepoint = connection.get_nested_transaction()
        connection.execution_options(flow_session=session)


# One listener for all sessions: one for each would take a third of the time of a short run.
event.listen(FlowSession, "after_begin", _join)


def _flow_session(connection: Connection | None) -> FlowSession | None:
    return connection.get_execution_options().get("flow_session") if connection else None


def _check_commit(connection: Connection) -> None:
    """Refuse a commit that bypasses the session."""
    if session := _flow_session(connection):
        session.refuse_control("commit()")


def _check_statement(
    connection: Connection, _cursor: DBAPICursor, statement: str, *_ignored: object
) -> None:
    """Refuse a statement after the end of the session, or one that would end its transaction."""
    session = _flow_session(connection)
    if session is None:
        return
    thread = threading.get_ident()
    if session.ended_by not in {None, thread}:
        raise SessionEndedError
    if session.ended_by is None and (words := transaction_control(connection.engine, statement)):
        session.refuse_control(f"the statement {words}")
    session.used_by = thread


def _after_statement(
    connection: Connection, _cursor: DBAPICursor, statement: str, *_ignored: object
) -> None:
    if session := _flow_session(connection):
        session.used_by = None
        session.error_expected = False
        if _is_savepoint_rollback(statement):
            session.failed_in_savepoint = None


def _note_first_error(context: ExceptionContext) -> None:
    """Remember a flow's first database error; one within a savepoint may yet be undone."""
    connection, session = context.connection, _flow_session(context.connection)
    if connection is None or session is None:
        return
    session.used_by = None
    if session.is_ending or _is_expected(context, session):
        return
    error = session.failed_in_savepoint or context.sqlalchemy_exception
    error = error or context.original_exception
    # If the rollback to a savepoint fails, the savepoint is gone: a deadlock on MySQL has rolled
    # back all earlier writes of the flow, and only later ones would be committed.
    is_nested = connection.get_nested_transaction() is not session.savepoint
    if is_nested and not _is_savepoint_rollback(context.statement):
        session.failed_in_savepoint = error
    else:
        session.forbidden_by = session.forbidden_by or error


def _keep_error_of_savepoint(connection: Connection, *_ignored: object) -> None:
    """Forbid a success: releasing a savepoint does not undo an error within it."""
    if session := _flow_session(connection):
        session.forbidden_by = session.forbidden_by or session.failed_in_savepoint


def _expect_error(connection: Connection, options: MutableMapping[str, Any]) -> None:
    """Apply SQLAlchemy's option for an expected error to one statement alone.

    Its dialect of MySQL sets the option on the connection, where it would stay and hide all later
    errors of the flow.
    """
    if session := _flow_session(connection):
        session.error_expected = options.pop(_SKIP_EVENTS, False)


def _is_expected(context: ExceptionContext, session: FlowSession) -> bool:
    """Return whether SQLAlchemy itself handles this error, as when it looks for a table."""
    expected, session.error_expected = session.error_expected, False
    statement = context.execution_context
    return expected or bool(statement and statement.execution_options.get(_SKIP_EVENTS))


def _is_savepoint_rollback(statement: str | None) -> bool:
    return (statement or "").startswith("ROLLBACK TO SAVEPOINT")
