"""Two sessions that lock the same rows in opposite order: bookkeeping is retried, a flow never is.

The engine's own lock order is kept by all; here somebody else, such as a person at a console, does
not. On databases that lock rows one by one.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, make_url, select, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run
from data_flows.heartbeat.db import make_engine
from data_flows.heartbeat.models import DataFlow, DataFlowRun
from data_flows.heartbeat.runs.register import register

from ..conftest import MakeApp, heartbeat_of
from ..factories import data_flow_run
from ..notes import Note
from .conftest import DATABASE, SECONDS, wait_until

Post = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("notes")

FLOW, RUN = select(DataFlow.id), select(DataFlowRun.id)
# How many wait for a lock in the tests' database.
WAITING = {
    "postgresql": """
        SELECT COUNT(*) FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND datname = current_database()
    """,
    "mysql": """
        SELECT COUNT(*) FROM information_schema.innodb_trx
        JOIN information_schema.processlist ON id = trx_mysql_thread_id
        WHERE trx_state = 'LOCK WAIT' AND db = DATABASE()
    """,
}[DATABASE]


class Other:
    """A session that locks two rows in the opposite order of the engine's, or a flow's."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.session = Session(engine)
        self.thread: threading.Thread | None = None
        self.errors: list[str] = []

    def hold(self, row: Any) -> None:
        """Lock a row; and write more than the engine does, since MySQL ends the smaller one."""
        self.session.add_all([Note(name=f"{n}", mark=f"other {n}") for n in range(100)])
        self.session.flush()
        self.session.execute(row.with_for_update())

    def ask_for(self, row: Any) -> None:
        """Wait for a row that its holder does not release; then release all."""

        def wait() -> None:
            self.session.execute(row.with_for_update())
            self.session.rollback()

        self.thread = threading.Thread(target=wait)
        self.thread.start()
        with self.engine.connect() as connection:
            wait_until(lambda: self._is_waiting(connection), "nobody waits for the row")
            if DATABASE == "postgresql":
                # A session that has waited this long looks for a deadlock once, and is then ended.
                timeout = "SELECT setting FROM pg_settings WHERE name = 'deadlock_timeout'"
                time.sleep(int(connection.execute(text(timeout)).scalar_one()) / 1_000 + 0.5)

    def meet(self, engine: Engine) -> None:
        """Ask for the flow's row, which `engine` holds, when it asks for the run's, held here."""

        def before(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
            is_change = statement.startswith("UPDATE") and " data_flow_runs " in statement
            if self.thread is None and is_change:
                self.ask_for(FLOW)
            elif self.thread is None and statement.startswith("WITH "):
                # It takes both, one after the other, and looks for a deadlock while it waits.
                self.thread = threading.Thread(target=self._ask_who_waits)
                self.thread.start()
            elif self.errors and self.thread:
                self.thread.join(SECONDS)  # so that the retry meets no lock

        def failed(context: ExceptionContext) -> None:
            self.errors.append(str(context.original_exception).lower())

        event.listen(engine, "before_cursor_execute", before)
        event.listen(engine, "handle_error", failed)

    def end(self) -> None:
        """Leave nothing behind."""
        if self.thread:
            self.thread.join(SECONDS)
        self.session.close()

    def _ask_who_waits(self) -> None:
        with self.engine.connect() as connection:
            wait_until(lambda: self._is_waiting(connection), "nobody waits for the run's row")
        self.session.execute(FLOW.with_for_update())
        self.session.rollback()

    def _is_waiting(self, connection: Connection) -> bool:
        waiting: int = connection.execute(text(WAITING)).scalar_one()
        connection.rollback()
        return waiting == 1


@pytest.fixture
def other(database_url: str) -> Iterator[Other]:
    """Connect as another process would."""
    engine = make_engine(make_url(database_url))
    other = Other(engine)
    yield other
    other.end()
    engine.dispose()


def a_note(name: str) -> Note:
    return Note(name=name, mark=name, size=1)


def note(name: str) -> Any:
    return select(Note.id).where(Note.mark == name)


def written(dbsession: Session) -> list[str]:
    return list(dbsession.scalars(select(Note.name).order_by(Note.name)))


def test_a_claim_passes_over_a_pending_run_whose_row_is_locked(
    make_app: MakeApp, post: Post, other: Other, dbsession: Session
) -> None:
    """It waits for no run while it holds a flow, so that it ends in no deadlock."""
    calls: list[int] = []
    app = make_app((lambda run: calls.append(run.id), {"name": "work"}))
    register(heartbeat_of(app))
    dbsession.add(data_flow_run(data_flow=dbsession.scalars(select(DataFlow)).one()))
    dbsession.commit()

    other.hold(RUN)
    while_locked = post(app).json
    other.session.rollback()
    reply = post(app).json

    assert (while_locked["flows_due"], while_locked["flows_triggered"]) == (1, 0)
    runs = dbsession.scalars(select(DataFlowRun).order_by(DataFlowRun.id)).all()
    assert reply["flows_succeeded"] == len(runs)
    assert {run.status for run in runs} == {"success"}
    assert calls == [run.id for run in runs]
    assert runs[0].trigger == "manual"


def test_a_failure_whose_record_ends_in_a_deadlock_is_recorded_by_the_next_try(
    make_app: MakeApp, post: Post, other: Other, dbsession: Session
) -> None:
    calls: list[int] = []

    def work(run: Run) -> None:
        calls.append(run.id)
        run.session.add(a_note("written"))
        other.hold(RUN)
        other.meet(heartbeat_of(app).engine)
        message = "no such bird"
        raise LookupError(message)

    app = make_app(work)
    reply = post(app).json

    (error,) = other.errors
    assert "deadlock" in error
    assert reply["flows_failed"] == len(calls) == 1
    run = dbsession.scalars(select(DataFlowRun)).one()
    assert (run.status, run.error_type, run.error_message) == (
        "failed",
        "LookupError",
        "no such bird",
    )
    assert written(dbsession) == []


def test_a_flow_that_ends_in_a_deadlock_is_failed_and_not_done_again(
    make_app: MakeApp, post: Post, other: Other, dbsession: Session
) -> None:
    dbsession.add_all([a_note("a"), a_note("b")])
    dbsession.commit()
    other.hold(note("b"))
    calls: list[int] = []

    def work(run: Run) -> None:
        calls.append(run.id)
        run.session.add(a_note("before"))
        run.session.execute(note("a").with_for_update())
        other.ask_for(note("a"))
        run.session.execute(note("b").with_for_update())

    reply = post(make_app(work)).json

    assert reply["flows_failed"] == len(calls) == 1
    run = dbsession.scalars(select(DataFlowRun)).one()
    assert run.status == "failed"
    assert "deadlock" in (run.error_message or "").lower()
    assert written(dbsession) == ["a", "b"]


def test_a_success_that_ends_in_a_deadlock_is_a_failure_and_the_flow_is_not_done_again(
    make_app: MakeApp, post: Post, other: Other, dbsession: Session
) -> None:
    calls: list[int] = []

    def work(run: Run) -> None:
        calls.append(run.id)
        run.session.add(a_note("written"))
        other.hold(RUN)
        other.meet(heartbeat_of(app).flow_engine)

    app = make_app(work)
    reply = post(app).json

    assert reply["flows_failed"] == len(calls) == 1
    run = dbsession.scalars(select(DataFlowRun)).one()
    assert run.status == "failed"
    assert "deadlock" in (run.error_message or "").lower()
    assert written(dbsession) == []


def test_a_deadlock_that_a_savepoint_cannot_undo_fails_the_run(
    make_app: MakeApp, post: Post, other: Other, dbsession: Session
) -> None:
    dbsession.add_all([a_note("a"), a_note("b")])
    dbsession.commit()
    other.hold(note("b"))

    def work(run: Run) -> None:
        run.session.add(a_note("before"))
        run.session.execute(note("a").with_for_update())
        other.ask_for(note("a"))
        try:
            with run.session.begin_nested():
                run.session.execute(note("b").with_for_update())
        except SQLAlchemyError:
            run.session.add(a_note("after"))

    reply = post(make_app(work)).json

    run = dbsession.scalars(select(DataFlowRun)).one()
    if DATABASE == "postgresql":  # where it undoes the savepoint and no more
        assert (run.status, reply["flows_succeeded"]) == ("success", 1)
        assert written(dbsession) == ["a", "after", "b", "before"]
    else:  # where all that the flow wrote before is gone with it
        assert (run.status, reply["flows_failed"]) == ("failed", 1)
        assert "deadlock" in (run.error_message or "").lower()
        assert written(dbsession) == ["a", "b"]


if DATABASE == "postgresql":
    UNLUCKY = """
        CREATE SEQUENCE tries;
        CREATE FUNCTION fail_at_first() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('tries') < 5 THEN
                RAISE 'could not serialize access' USING ERRCODE = 'serialization_failure';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER unlucky BEFORE INSERT ON data_flow_runs
        FOR EACH ROW EXECUTE FUNCTION fail_at_first();
    """
    LUCKY = """
        DROP TRIGGER unlucky ON data_flow_runs;
        DROP FUNCTION fail_at_first();
        DROP SEQUENCE tries;
    """

    def test_a_claim_that_cannot_be_serialized_is_done_again(
        make_app: MakeApp, post: Post, dbsession: Session
    ) -> None:
        calls: list[int] = []
        dbsession.execute(text(UNLUCKY))
        dbsession.commit()
        try:
            reply = post(make_app((lambda run: calls.append(run.id), {"name": "work"}))).json
        finally:
            dbsession.execute(text(LUCKY))
            dbsession.commit()

        assert (reply["flows_triggered"], reply["flows_succeeded"], len(calls)) == (1, 1, 1)
        assert dbsession.scalars(select(DataFlowRun.status)).all() == ["success"]
