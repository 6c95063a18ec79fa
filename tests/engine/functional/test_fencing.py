"""A run that its process has lost commits nothing, whatever its flow has done."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, delete, inspect, make_url, select, text, update
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run
from data_flows.heartbeat.db import Limits, make_engine
from data_flows.heartbeat.models import DataFlow, DataFlowRun

from ..conftest import MakeApp
from ..delivery import EXECUTOR
from ..notes import Note

Post = Callable[..., Any]
Work = Callable[[Run], Any]
Lose = Callable[[Session], Any]

DATABASE = make_url(os.environ.get("TEST_DATABASE_URL") or "sqlite://").get_backend_name()

pytestmark = pytest.mark.usefixtures("notes")


@pytest.fixture
def elsewhere(database_url: str) -> Iterator[Engine]:
    """Connect as another process would."""
    engine = make_engine(make_url(database_url), limits=Limits(write_lock=5))
    yield engine
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS made_by_a_flow"))
    engine.dispose()


def nothing(_run: Run) -> None:
    """Never touch the session."""


def a_savepoint(run: Run) -> None:
    with run.session.begin_nested():
        run.session.add(Note(name="nested", mark="nested"))


def text_sql(run: Run) -> None:
    statement = "INSERT INTO notes_of_tests (name, mark, size) VALUES ('text', 'text', 1)"
    run.session.execute(text(statement))


def orm(run: Run) -> None:
    run.session.add(Note(name="orm", mark="orm"))
    run.session.flush()


def insert_after_with(run: Run) -> None:
    statement = """
        WITH source AS (SELECT 1 AS size)
        INSERT INTO notes_of_tests (name, mark, size) SELECT 'with', 'with', size FROM source
    """
    run.session.execute(text(statement.strip()))


def insert_within_with(run: Run) -> None:
    statement = """
        WITH made AS (
            INSERT INTO notes_of_tests (name, mark, size) VALUES ('in', 'in', 1) RETURNING name
        ) SELECT name FROM made
    """
    run.session.execute(text(statement.strip()))


def make_a_table(run: Run) -> None:
    run.session.execute(text("CREATE TABLE made_by_a_flow (id INTEGER)"))
    run.session.execute(text("INSERT INTO made_by_a_flow VALUES (1)"))


FIRST: list[Work] = [nothing, a_savepoint, text_sql, orm]
if DATABASE != "mysql":  # which has no such statement, and commits before and after each DDL
    FIRST += [insert_after_with, make_a_table]
if DATABASE == "postgresql":
    FIRST += [insert_within_with]


def reaped(session: Session) -> None:
    now = datetime.now(UTC)
    session.execute(update(DataFlowRun).values(status="failed", ended_at=now))


def taken_over(session: Session) -> None:
    session.execute(update(DataFlowRun).values(claim_id="of somebody else"))


def run_removed(session: Session) -> None:
    session.execute(delete(DataFlowRun))


def flow_removed(session: Session) -> None:
    session.execute(delete(DataFlow))


def left_behind(engine: Engine) -> list[Any]:
    """Return all that the flow could have written."""
    with Session(engine) as session:
        names = session.scalars(select(Note.name)).all()
    return [*names, *({"made_by_a_flow"} & {*inspect(engine).get_table_names()})]


def bookkeeping(engine: Engine) -> list[Any]:
    """Return the recorded state of flows and runs."""
    with engine.connect() as connection:
        tables = (DataFlow.__table__, DataFlowRun.__table__)
        return [tuple(row) for table in tables for row in connection.execute(select(table))]


# On SQLite a flow that has written holds the write lock: no other process can take its run.
@pytest.mark.parametrize("when", ["before"] if DATABASE == "sqlite" else ["before", "after"])
@pytest.mark.parametrize("lose", [reaped, taken_over, run_removed, flow_removed])
@pytest.mark.parametrize("first", FIRST)
def test_a_run_that_was_lost_leaves_nothing_behind(
    make_app: MakeApp, post: Post, elsewhere: Engine, *, first: Work, lose: Lose, when: str
) -> None:
    after_the_loss: list[Any] = []

    def lose_it() -> None:
        with Session(elsewhere) as session, session.begin():
            lose(session)
        after_the_loss.extend(bookkeeping(elsewhere))

    def work(run: Run) -> None:
        if when == "before":
            lose_it()
        first(run)
        if when == "after":
            lose_it()

    # With Celery, a beat sees that another process still executes the run that it took over.
    goes_on = EXECUTOR == "celery" and lose is taken_over
    reply = post(make_app(work), status=202 if goes_on else 200).json

    assert reply["flows_succeeded"] == 0
    assert reply["flows_in_progress" if goes_on else "flows_failed"] == 1
    assert left_behind(elsewhere) == []
    assert bookkeeping(elsewhere) == after_the_loss


@pytest.mark.parametrize("first", FIRST)
def test_the_same_flow_leaves_all_when_its_run_is_its_own(
    make_app: MakeApp, post: Post, elsewhere: Engine, dbsession: Session, first: Work
) -> None:
    reply = post(make_app(first)).json

    assert reply["flows_succeeded"] == 1
    assert dbsession.scalars(select(DataFlowRun.status)).all() == ["success"]
    assert len(left_behind(elsewhere)) == (0 if first is nothing else 1)
