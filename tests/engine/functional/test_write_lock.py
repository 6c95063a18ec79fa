"""SQLite's one write lock: a flow that would wait for itself gets an error, and others go on."""

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import make_url, select
from sqlalchemy.orm import Session, sessionmaker

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlowRun
from data_flows.models import get_engine, get_session_factory

from ..conftest import FakeClock, MakeApp
from ..notes import Note

Post = Callable[..., Any]
Factory = sessionmaker[Session]
EVERY = 300
DATABASE = make_url(os.environ.get("TEST_DATABASE_URL") or "sqlite://").get_backend_name()

pytestmark = pytest.mark.usefixtures("notes")


@pytest.fixture
def factory(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Factory]:
    """Make the project's own sessions, as a script or a flow may."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    engine = get_engine({})
    yield get_session_factory(engine)
    engine.dispose()


def write(session: Session, name: str) -> None:
    session.add(Note(name=name, mark=name))
    session.flush()


def ours_first(run: Run, factory: Factory) -> None:
    write(run.session, "ours")
    with factory() as session:
        write(session, "second")
        session.commit()


def theirs_first(run: Run, factory: Factory) -> None:
    with factory() as session:
        write(session, "second")
        write(run.session, "ours")
        session.commit()


left = list[Session]()


def theirs_is_left_open(_run: Run, factory: Factory) -> None:
    left.append(factory())
    write(left[-1], "second")


def theirs_is_left_open_and_ours_has_read(run: Run, factory: Factory) -> None:
    run.session.scalars(select(Note)).all()
    theirs_is_left_open(run, factory)


def theirs_is_left_open_by_an_error(run: Run, factory: Factory) -> None:
    theirs_is_left_open(run, factory)
    raise LookupError


if DATABASE == "sqlite":

    @pytest.mark.parametrize(
        "work",
        [
            ours_first,
            theirs_first,
            theirs_is_left_open,
            theirs_is_left_open_and_ours_has_read,
            theirs_is_left_open_by_an_error,
        ],
    )
    def test_a_flow_that_would_wait_for_its_own_second_session_fails_and_names_it(
        make_app: MakeApp,
        post: Post,
        clock: FakeClock,
        dbsession: Session,
        *,
        factory: Factory,
        work: Callable[[Run, Factory], None],
    ) -> None:
        def flow(run: Run) -> None:
            work(run, factory)

        def other(run: Run) -> None:
            write(run.session, f"other {run.id}")

        app = make_app(
            (flow, {"every": EVERY, "name": "flow"}), (other, {"every": EVERY, "name": "other"})
        )
        assert post(app).json["flows_failed"] == 1
        clock.advance(EVERY)
        assert post(app).json["flows_failed"] == 1

        raised = work is theirs_is_left_open_by_an_error
        rows = dbsession.scalars(DataFlowRun.failed()).all()
        assert [run.error_type for run in rows] == [
            "LookupError" if raised else "SecondSessionError"
        ] * 2
        assert raised or all("second session" in (run.error_message or "") for run in rows)
        # The others' writes are kept, and nothing of this flow's.
        marks = dbsession.scalars(select(Note.mark)).all()
        assert {mark.split()[0] for mark in marks} == {"other"}
        left.clear()

    def test_a_second_thread_waits_for_the_projects_engine_no_longer_than_a_minute(
        factory: Factory,
    ) -> None:
        with factory() as session:
            connection: Any = session.connection().connection.dbapi_connection
            assert connection.execute("PRAGMA busy_timeout").fetchone() == (60_000,)


def test_a_flow_may_write_by_a_second_session_if_it_ends_it_first(
    make_app: MakeApp, post: Post, dbsession: Session, factory: Factory
) -> None:
    def flow(run: Run) -> None:
        with factory() as session:
            write(session, "second")
            session.commit()
        write(run.session, "ours")

    assert post(make_app(flow)).json["flows_succeeded"] == 1
    assert sorted(dbsession.scalars(select(Note.name))) == ["ours", "second"]


def test_a_second_session_may_read_while_the_flow_writes(
    make_app: MakeApp, post: Post, dbsession: Session, factory: Factory
) -> None:
    def flow(run: Run) -> int:
        write(run.session, "ours")
        with factory() as session:
            return len(session.scalars(select(Note)).all())

    assert post(make_app(flow)).json["flows_succeeded"] == 1
    assert dbsession.scalars(select(DataFlowRun.result)).all() == [0]


def test_threads_of_two_flows_that_write_at_once_both_succeed(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    both = threading.Barrier(2, timeout=30)

    def flow(run: Run) -> None:
        both.wait()
        write(run.session, run.flow_name)

    app = make_app(*((flow, {"name": f"flow {number}"}) for number in range(2)))

    assert post(app).json["flows_succeeded"] == 2
    assert sorted(dbsession.scalars(select(Note.name))) == ["flow 0", "flow 1"]
