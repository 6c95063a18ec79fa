"""The server ends all connections, at any moment: claimed runs end, and the next beat goes on.

SQLite has no connection that could be lost.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, cast

import pytest
from sqlalchemy import Engine, create_engine, event, make_url, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.db import backend, is_unavailable, limit_transaction
from data_flows.heartbeat.db.limits import ENDING
from data_flows.heartbeat.models import DataFlow, DataFlowRun

from ..conftest import TOKEN, FakeClock, MakeApp, heartbeat_of
from ..notes import Note
from .conftest import DATABASE, wait_until

pytestmark = pytest.mark.usefixtures("notes")

# The connections to the tests' database, but for the one that asks; and how to end one.
OTHERS = {
    "postgresql": """
        SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
    """,
    "mysql": """
        SELECT id FROM information_schema.processlist
        WHERE db = DATABASE() AND id <> CONNECTION_ID()
    """,
}[DATABASE]
END = "SELECT pg_terminate_backend(%s)" if DATABASE == "postgresql" else "KILL %s"
EVERY = LEASE = 300


class Scissors:
    """Closes all connections to the tests' database: on a call, or at a step of an engine."""

    def __init__(self, owner: Engine) -> None:
        self.owner = owner
        self.steps = 0
        self.cut_at: int | None = None
        self._counting = threading.Lock()

    def cut(self) -> None:
        """End all connections but the own; return when they are gone."""
        with self.owner.connect() as connection:

            def others() -> set[int]:
                return set(connection.exec_driver_sql(OTHERS).scalars())

            there = others()
            for number in there:
                with suppress(DBAPIError):  # it may have ended by itself
                    connection.exec_driver_sql(END, (number,))
            wait_until(lambda: not there & others(), "connections do not end")

    def step(self, *_ignored: object) -> bool:
        """Count a step; at the one to cut at, do so and return True."""
        with self._counting:
            self.steps += 1
            due = self.steps == self.cut_at
        if due:
            self.cut()
        return due

    def before_each_statement_and_commit(self, engine: Engine) -> None:
        """Count these as the steps."""
        event.listen(engine, "before_cursor_execute", self.step)
        event.listen(engine, "commit", self.step)

    def after_each_commit(self, engine: Engine) -> None:
        """Count these: the commits take effect, but their answers are lost."""
        commit = engine.dialect.do_commit

        def commit_and_cut(connection: Any) -> None:
            commit(connection)
            if self.step():
                connection.cursor().execute("SELECT 1")  # raises what the driver raises then

        dialect: Any = engine.dialect
        dialect.do_commit = commit_and_cut


@pytest.fixture
def scissors(database_url: str) -> Iterator[Scissors]:
    """Connect as an administrator does."""
    owner = create_engine(make_url(database_url), isolation_level="AUTOCOMMIT")
    yield Scissors(owner)
    owner.dispose()


def beat(app: TestApp) -> Any:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return app.post("/heartbeat", headers=headers, expect_errors=True)


def check_that_all_is_recorded(dbsession: Session) -> list[DataFlowRun]:
    """Every run has ended, and what its flow wrote is there if it succeeded, and else is not."""
    dbsession.rollback()
    cast("Engine", dbsession.get_bind()).dispose()  # its connections were cut, too
    runs = list(dbsession.scalars(select(DataFlowRun).order_by(DataFlowRun.id)))
    assert {run.status for run in runs} <= {"success", "failed"}
    succeeded = [str(run.id) for run in runs if run.status == "success"]
    assert list(dbsession.scalars(select(Note.mark).order_by(Note.id))) == succeeded
    last = dbsession.scalars(select(DataFlow.last_run_status)).one()
    assert last == runs[-1].status
    # Their values stay, and no connection is kept that could be cut.
    dbsession.expunge_all()
    dbsession.rollback()
    return runs


def write(run: Run) -> None:
    run.session.add(Note(name=run.flow_name, mark=str(run.id)))
    run.session.flush()


def write_and_raise(run: Run) -> None:
    write(run)
    raise LookupError(run.flow_name)


CUTS = [Scissors.before_each_statement_and_commit, Scissors.after_each_commit]


@pytest.mark.slow
@pytest.mark.parametrize("function", [write, write_and_raise])
@pytest.mark.parametrize("watch", CUTS)
def test_whenever_connections_are_lost_the_run_ends_and_the_next_beat_goes_on(
    make_app: MakeApp,
    clock: FakeClock,
    scissors: Scissors,
    dbsession: Session,
    *,
    watch: Callable[[Scissors, Engine], None],
    function: Callable[[Run], None],
) -> None:
    app = make_app((function, {"every": EVERY, "name": "work"}), **{"heartbeat.lease": f"{LEASE}s"})
    assert beat(app).status_code == 200
    for engine in (heartbeat_of(app).engine, heartbeat_of(app).flow_engine):
        watch(scissors, engine)
    clock.advance(EVERY)
    assert beat(app).status_code == 200
    steps = scissors.steps
    assert steps >= 4

    for number in range(1, steps + 1):
        scissors.steps, scissors.cut_at = 0, number
        clock.advance(EVERY)
        # Either the beat went on, or its reply names the database as the cause.
        assert beat(app).status_code in {200, 503}, f"at the cut at {number}"
        scissors.cut_at = None
        clock.advance(LEASE)

        assert beat(app).status_code == 200, f"after the cut at {number}"
        runs = check_that_all_is_recorded(dbsession)
        assert runs[-1].status == ("success" if function is write else "failed")
        assert runs[-1].error_type in {None, "LookupError"}


def test_a_flow_whose_connection_is_lost_is_failed_even_if_it_never_notices(
    make_app: MakeApp, scissors: Scissors, dbsession: Session
) -> None:
    def work(run: Run) -> None:
        write(run)
        scissors.cut()

    reply = beat(make_app(work))

    assert (reply.status_code, reply.json["flows_failed"]) == (200, 1)
    (run,) = check_that_all_is_recorded(dbsession)
    assert run.error_type in {"OperationalError", "InterfaceError"}


def test_connections_that_were_lost_while_idle_cost_nothing(
    make_app: MakeApp,
    clock: FakeClock,
    scissors: Scissors,
    dbsession: Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backend, "PING_AFTER", 0.0)  # as if they had rested for longer
    app = make_app((write, {"every": EVERY}))
    replies = []
    for _ in range(3):
        replies.append(beat(app))
        scissors.cut()
        clock.advance(EVERY)

    assert [reply.json["flows_succeeded"] for reply in replies] == [1, 1, 1]
    assert len(check_that_all_is_recorded(dbsession)) == 3


def test_a_transaction_that_cannot_begin_reports_a_lost_database(
    make_app: MakeApp, scissors: Scissors
) -> None:
    with heartbeat_of(make_app(write)).engine.connect() as connection:
        limit_transaction(connection, ENDING)  # which a statement undoes at the next begin
        connection.commit()
        scissors.cut()

        with pytest.raises(DBAPIError) as raised:
            connection.execute(select(1))

    assert is_unavailable(raised.value)
