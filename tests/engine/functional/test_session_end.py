"""After the end of a run, nothing is written through its session, by any thread or process."""

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, make_url, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run
from data_flows.heartbeat.errors import SessionControlError, SessionEndedError
from data_flows.heartbeat.models import DataFlowRun

from ..conftest import FakeClock, MakeApp
from ..notes import Note

Post = Callable[..., Any]
SECONDS = 30
DATABASE = make_url(os.environ.get("TEST_DATABASE_URL") or "sqlite://").get_backend_name()

pytestmark = pytest.mark.usefixtures("notes")


def a_note(name: str) -> Note:
    return Note(name=name, mark=name)


def written(dbsession: Session) -> list[str]:
    dbsession.rollback()
    return sorted(dbsession.scalars(select(Note.name)))


def the_run(dbsession: Session) -> DataFlowRun:
    dbsession.rollback()
    return dbsession.scalars(select(DataFlowRun)).one()


# ---------------------------------------------------------------------------------------------
# Threads that the flow left behind


def add_and_commit(session: Any, _connection: Any) -> None:
    session.add(a_note("left"))
    session.commit()


def insert_and_commit_the_connection(_session: Any, connection: Any) -> None:
    connection.execute(insert(Note).values(name="left", mark="left", size=1))
    connection.commit()


CALLS: list[Callable[[Any, Any], object]] = [
    add_and_commit,
    insert_and_commit_the_connection,
    lambda session, _: session.add(a_note("left")),
    lambda session, _: session.flush(),
    lambda session, _: session.execute(insert(Note).values(name="left", mark="left", size=1)),
    lambda session, _: session.scalars(select(Note)).all(),
    lambda session, _: session.get(Note, 1),
    lambda session, _: session.connection(),
    lambda session, _: session.begin(),
    lambda session, _: session.begin_nested(),
    lambda session, _: session.rollback(),
    lambda session, _: session.close(),
    lambda session, _: session.bind,
    lambda _, connection: connection.execute(select(1)),
]


@pytest.mark.parametrize("fails", [False, True], ids=["ends", "fails"])
@pytest.mark.parametrize("uses", [False, True], ids=["unused", "used"])
@pytest.mark.parametrize("call", CALLS, ids=range(len(CALLS)))
def test_after_the_end_a_session_refuses_every_thread(
    make_app: MakeApp,
    post: Post,
    dbsession: Session,
    *,
    call: Callable[[Any, Any], object],
    uses: bool,
    fails: bool,
) -> None:
    ended, refused = threading.Event(), list[BaseException]()
    threads = list[threading.Thread]()

    def work(run: Run) -> None:
        connection = run.session.connection() if uses else None

        def later() -> None:
            assert ended.wait(SECONDS)
            try:
                call(run.session, connection)
            except BaseException as error:  # noqa: BLE001 - what it is, the test looks at
                refused.append(error)

        threads.append(threading.Thread(target=later))
        threads[0].start()
        if fails:
            raise LookupError

    app = make_app(work)
    post(app)
    ended.set()
    threads[0].join(SECONDS)

    [error] = refused
    if isinstance(error, SessionEndedError):
        assert "has ended with its run" in str(error)
    else:  # a connection of its own is closed; there was none if the session was not used
        assert isinstance(error, SQLAlchemyError | AttributeError)
    assert written(dbsession) == []
    # Nobody is kept from writing.
    dbsession.add(a_note("of somebody else"))
    dbsession.commit()


def test_a_thread_that_still_executes_a_statement_fails_the_run(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    sleeping = {
        "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000000) "
        "SELECT count(*) FROM n",
        "postgresql": "SELECT pg_sleep(3)",
        "mysql": "SELECT SLEEP(3)",
    }[DATABASE]

    def work(run: Run) -> None:
        run.session.add(a_note("written"))
        run.session.flush()
        session: Any = run.session

        def use() -> None:
            with suppress(Exception):
                session.execute(text(sleeping))

        threading.Thread(target=use).start()
        while session.used_by in {None, threading.get_ident()}:
            pass

    post(make_app(work))

    run = the_run(dbsession)
    assert (run.status, run.error_type) == ("failed", "SessionInUseError")
    assert "join the thread" in (run.error_message or "")
    assert written(dbsession) == []


# ---------------------------------------------------------------------------------------------
# Control of the transaction as text

SPELLINGS = [
    "COMMIT",
    " commit ;",
    "Rollback",
    "/* in the end */ COMMIT",
    "-- in the end\nROLLBACK",
    "BEGIN",
    "START  TRANSACTION",
    "ROLLBACK /* all of it */",
]
OF_ONE: dict[str, list[str]] = {
    "sqlite": ["END", "END TRANSACTION", "BEGIN IMMEDIATE", "COMMIT TRANSACTION"],
    "postgresql": [
        *("END", "ABORT", "COMMIT AND CHAIN", "PREPARE TRANSACTION 'x'"),
        *("/* one /* in another */ */ COMMIT", "SELECT 1; COMMIT", "SELECT $$'$$; ROLLBACK"),
    ],
    "mysql": [
        *("SET autocommit = 1", "SET @@session.autocommit=1", "# in the end\nCOMMIT"),
        *("/*! COMMIT */", "/*M!100100 ROLLBACK */", "LOCK TABLES notes_of_tests WRITE"),
    ],
}


@pytest.mark.parametrize("swallows", [False, True], ids=["raises", "swallows"])
@pytest.mark.parametrize("statement", SPELLINGS + OF_ONE[DATABASE])
def test_text_that_controls_the_transaction_is_refused_and_fails_the_run(
    make_app: MakeApp, post: Post, dbsession: Session, statement: str, *, swallows: bool
) -> None:
    def work(run: Run) -> None:
        run.session.add_all([a_note("one"), a_note("two")])
        run.session.flush()
        try:
            run.session.execute(text(statement))
        except SessionControlError:
            if not swallows:
                raise
        run.session.add(a_note("three"))

    post(make_app(work))

    run = the_run(dbsession)
    assert (run.status, run.error_type) == ("failed", "SessionControlError")
    assert "the engine ends the transaction" in (run.error_message or "")
    assert written(dbsession) == []


def test_it_is_refused_on_the_connection_too(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    ends: list[Callable[[Any], object]] = [
        lambda connection: connection.exec_driver_sql("COMMIT"),
        lambda connection: connection.commit(),
        lambda connection: connection.get_transaction().commit(),
    ]

    def work(run: Run) -> None:
        run.session.add(a_note("one"))
        run.session.flush()
        for end in ends:
            with pytest.raises(SessionControlError):
                end(run.session.connection())

    post(make_app(work))

    run = the_run(dbsession)
    assert (run.status, run.error_type) == ("failed", "SessionControlError")
    assert written(dbsession) == []


HARMLESS = [
    "SELECT 'COMMIT'",
    "SELECT '; ROLLBACK'",
    "/* COMMIT */ SELECT 1",
    "SAVEPOINT here",
    "SELECT name AS commits FROM notes_of_tests",
]


@pytest.mark.parametrize("statement", HARMLESS)
def test_text_that_only_mentions_control_is_executed(
    make_app: MakeApp, post: Post, dbsession: Session, statement: str
) -> None:
    def work(run: Run) -> None:
        run.session.add(a_note("one"))
        run.session.flush()
        run.session.execute(text(statement))

    post(make_app(work))

    assert (the_run(dbsession).status, written(dbsession)) == ("success", ["one"])


def test_savepoints_as_text_go_back_as_they_should(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    def work(run: Run) -> None:
        run.session.add(a_note("one"))
        run.session.flush()
        run.session.execute(text("SAVEPOINT here"))
        run.session.add(a_note("two"))
        run.session.flush()
        run.session.execute(text("ROLLBACK TO SAVEPOINT here"))
        run.session.execute(text("RELEASE SAVEPOINT here"))

    post(make_app(work))

    assert (the_run(dbsession).status, written(dbsession)) == ("success", ["one"])


# ---------------------------------------------------------------------------------------------
# Forks


def exit_at_once() -> None:
    sys.exit(0)


def exit_with_a_code() -> None:
    sys.exit(3)


def exit_with_a_text() -> None:
    sys.exit("out of here")


def raise_an_error() -> None:
    raise LookupError("in the child")


def come_back() -> None:
    """Return from the flow, in the child."""


CHILDREN = [
    (exit_at_once, 0),
    (exit_with_a_code, 3),
    (exit_with_a_text, 1),
    (raise_an_error, 1),
    (come_back, 0),
]


@pytest.mark.parametrize("fails", [False, True], ids=["ends", "fails"])
@pytest.mark.parametrize(("child", "code"), CHILDREN)
def test_a_forked_child_decides_nothing_about_the_run(
    make_app: MakeApp,
    post: Post,
    dbsession: Session,
    clock: FakeClock,
    *,
    child: Callable[[], None],
    code: int,
    fails: bool,
) -> None:
    codes = list[int]()

    def work(run: Run) -> None:
        run.session.add(a_note("by the parent"))
        run.session.flush()
        process = os.fork()
        if process == 0:
            child()
            return
        codes.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
        if fails:
            raise LookupError

    app = make_app((work, {"every": "5m"}))
    assert post(app).json["flows_failed"] == fails
    # The next run is claimed, executed and recorded as ever.
    clock.advance(timedelta(minutes=5).total_seconds())
    dbsession.execute(Note.__table__.delete())  # type: ignore[attr-defined]  # a Table
    dbsession.commit()
    assert post(app).json["flows_failed"] == fails

    assert codes == [code, code]
    runs = dbsession.scalars(select(DataFlowRun)).all()
    assert {run.status for run in runs} == {"failed" if fails else "success"}
    assert {run.error_type for run in runs} == {"LookupError" if fails else None}
    assert written(dbsession) == ([] if fails else ["by the parent"])


def test_a_forked_child_cannot_use_the_session(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    def work(run: Run) -> int:
        connection = run.session.connection()
        process = os.fork()
        if process:
            return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        refused = 0
        calls: list[Callable[[], object]] = [
            lambda: run.session.execute(text("SELECT 1")),
            lambda: run.session.add(a_note("by the child")),
            lambda: connection.execute(text("SELECT 1")),
        ]
        for call in calls:
            try:
                call()
            except SessionEndedError:
                refused += 1
        os._exit(refused)

    post(make_app(work))

    run = the_run(dbsession)
    assert (run.status, run.result) == ("success", 3)
    assert written(dbsession) == []


def test_a_condition_that_forks_is_answered_by_the_parent(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    def when(_run: Run) -> bool:
        process = os.fork()
        if process == 0:
            sys.exit(0)
        return os.waitpid(process, 0)[1] == 0

    def work(_run: Run) -> None:
        pass

    assert post(make_app((work, {"when": when}))).json["flows_succeeded"] == 1
    assert the_run(dbsession).status == "success"
