"""What the engine needs of each database: asked for, and set where a server could differ."""

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, make_url, select, text
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.cli import main
from data_flows.heartbeat.core import WAITING
from data_flows.heartbeat.db import Limits, begin_writing, make_engine
from data_flows.heartbeat.models import DataFlow, DataFlowBeat, DataFlowRun

from ..conftest import MakeApp, heartbeat_of
from ..notes import Note
from .conftest import Command, settle

Post = Callable[..., Any]

DATABASE = make_url(os.environ.get("TEST_DATABASE_URL") or "sqlite://").get_backend_name()

pytestmark = pytest.mark.usefixtures("notes")


@pytest.fixture
def elsewhere(database_url: str) -> Iterator[Engine]:
    """Connect as another process would."""
    engine = make_engine(make_url(database_url), limits=Limits(write_lock=5))
    yield engine
    engine.dispose()


def add_note(engine: Engine, name: str) -> None:
    with Session(engine) as session, session.begin():
        session.add(Note(name=name, mark=name))


def written(dbsession: Session) -> list[str]:
    return list(dbsession.scalars(select(Note.name).order_by(Note.id)))


def test_a_flow_that_writes_while_it_reads_meets_what_others_write(
    make_app: MakeApp, post: Post, elsewhere: Engine, dbsession: Session
) -> None:
    for name in ("a", "b"):
        add_note(elsewhere, name)

    def work(run: Run) -> None:
        for (name,) in run.session.execute(text("SELECT name FROM notes_of_tests ORDER BY id")):
            if name == "a":
                add_note(elsewhere, "of somebody else")
            run.session.add(Note(name=f"{name} again", mark=f"{name} again"))
            run.session.flush()

    assert post(make_app(work)).json["flows_succeeded"] == 1
    assert written(dbsession) == ["a", "b", "of somebody else", "a again", "b again"]


def test_a_flow_that_has_not_read_to_the_end_may_write_too(
    make_app: MakeApp, post: Post, elsewhere: Engine, dbsession: Session
) -> None:
    for name in ("a", "b"):
        add_note(elsewhere, name)
    left_open: list[Any] = []

    def work(run: Run) -> None:
        by_text = run.session.execute(text("SELECT name FROM notes_of_tests ORDER BY id"))
        by_orm = run.session.scalars(select(Note).order_by(Note.id))
        left_open.extend([by_text, by_text.fetchone(), by_orm, by_orm.fetchmany(1)])
        add_note(elsewhere, "of somebody else")
        run.session.add(Note(name="written", mark="written"))

    assert post(make_app(work)).json["flows_succeeded"] == 1
    assert written(dbsession) == ["a", "b", "of somebody else", "written"]


def test_a_flow_sees_what_others_commit_while_it_works(
    make_app: MakeApp, post: Post, elsewhere: Engine, dbsession: Session
) -> None:
    def work(run: Run) -> list[int]:
        before = len(run.session.scalars(select(Note.id)).all())
        add_note(elsewhere, "of somebody else")
        return [before, len(run.session.scalars(select(Note.id)).all())]

    post(make_app(work))

    assert dbsession.scalars(select(DataFlowRun.result)).all() == [[0, 1]]


if DATABASE == "sqlite":  # where a writer makes all others wait
    BEATS = 40

    def test_of_many_beats_a_few_wait_for_the_write_lock_and_all_are_answered(
        make_app: MakeApp, post: Post, elsewhere: Engine, dbsession: Session
    ) -> None:
        app = make_app((lambda _run: None, {"name": "none", "start": "next"}))
        post(app)
        threads = threading.active_count()

        with Session(elsewhere) as session, ThreadPoolExecutor(BEATS) as callers:
            begin_writing(session)
            beats = [
                callers.submit(post, TestApp(app.app), status=202, Prefer="wait=0")
                for _ in range(BEATS)
            ]
            assert {beat.result().json["flows_in_progress"] for beat in beats} == {0}
            left = [t for t in threading.enumerate() if t.name == "heartbeat-beat"]
        settle()

        assert len(left) == WAITING
        assert len(dbsession.scalars(select(DataFlowBeat.id)).all()) == 1 + WAITING
        assert threading.active_count() <= threads


if DATABASE != "sqlite":  # which has neither levels nor a server

    @pytest.fixture(params=["REPEATABLE READ", "SERIALIZABLE"])
    def _strict(
        request: pytest.FixtureRequest, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[None]:
        """Let connections to the tests' database begin at a stricter level by default."""
        url = make_url(database_url)
        owner = create_engine(url, isolation_level="AUTOCOMMIT").connect()
        if DATABASE == "postgresql":
            setting = "default_transaction_isolation"
            owner.exec_driver_sql(
                f"ALTER DATABASE {url.database} SET {setting} = '{request.param}'"
            )
        else:  # where one database has no default of its own, but each connection may begin with it
            begin = f"SET SESSION TRANSACTION ISOLATION LEVEL {request.param}"
            url = url.update_query_dict({"init_command": begin})
        plain = create_engine(url)
        with plain.connect() as connection:
            assert connection.get_isolation_level() == request.param
        plain.dispose()
        monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
        yield
        if DATABASE == "postgresql":
            owner.exec_driver_sql(f"ALTER DATABASE {url.database} RESET {setting}")
        owner.close()
        owner.engine.dispose()

    @pytest.mark.usefixtures("_strict")
    def test_flows_and_bookkeeping_read_committed_whatever_the_default_is(
        make_app: MakeApp, post: Post, dbsession: Session
    ) -> None:
        def work(run: Run) -> str:
            return run.session.connection().get_isolation_level()

        app = make_app(work)
        levels = set()

        def note_level(connection: Any, *_ignored: object) -> None:
            levels.add(connection.get_isolation_level())

        event.listen(heartbeat_of(app).engine, "after_cursor_execute", note_level)

        assert post(app).json["flows_succeeded"] == 1
        assert dbsession.scalars(select(DataFlowRun.result)).all() == ["READ COMMITTED"]
        assert levels == {"READ COMMITTED"}

    def test_a_missing_server_is_named(
        make_app: MakeApp, post: Post, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with closing(
            socket.socket()
        ) as silent:  # bound, so that no other process takes it, but not listening
            silent.bind(("127.0.0.1", 0))
            url = make_url(database_url).set(port=silent.getsockname()[1], host="127.0.0.1")
            monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
            response = post(make_app(), status=503)

        assert re.search(r"cannot be reached \(.*\): start its server", response.json["detail"])
        assert response.headers["Retry-After"].isdecimal()

    @pytest.fixture
    def _old_server() -> Iterator[None]:
        """Make the server refuse the clause, as one does that is too old for it."""

        def garble(_connection: object, _cursor: object, statement: str, *more: Any) -> Any:
            return statement.replace("SKIP LOCKED", "SKIP LOKCED"), more[0]

        event.listen(Engine, "before_cursor_execute", garble, retval=True)
        yield
        event.remove(Engine, "before_cursor_execute", garble)

    KIND = "postgresql" if DATABASE == "postgresql" else "(mysql|mariadb)"
    REFUSED = (
        rf"{KIND} [0-9.]+, refuses FOR UPDATE SKIP LOCKED \(.*LOKCED.*\): "
        r"use PostgreSQL 9\.5, MySQL 8\.0\.1, MariaDB 10\.6 or newer"
    )

    @pytest.mark.usefixtures("_old_server")
    def test_a_server_that_cannot_skip_locked_rows_is_refused_at_the_first_beat(
        make_app: MakeApp, post: Post, dbsession: Session
    ) -> None:
        response = post(make_app((lambda _run: None, {"name": "none"})), status=503)

        assert response.headers["Retry-After"].isdecimal()
        assert re.search(REFUSED, response.json["detail"])
        assert "\n" not in response.json["detail"]
        assert dbsession.scalars(select(DataFlow.id)).all() == []

    @pytest.mark.parametrize(
        "name", [name for name in ("check", "migrate", "beat") if name in main.commands]
    )
    @pytest.mark.usefixtures("_old_server")
    def test_commands_refuse_a_server_that_cannot_skip_locked_rows_in_one_line(
        command: Command, name: str
    ) -> None:
        result = command(name)

        assert result.exit_code == 1
        (problem,) = [line for line in result.output.splitlines() if "SKIP LOCKED" in line]
        assert re.search(REFUSED, problem)
        assert "Traceback" not in result.output
