"""The writes of a flow and its success are one transaction: both are committed, or neither."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid_retry import RetryableException
from sqlalchemy import Engine, insert, make_url, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session
from transaction.interfaces import TransientError

from data_flows.heartbeat import Run
from data_flows.heartbeat.db import Limits, make_engine
from data_flows.heartbeat.errors import SessionControlError
from data_flows.heartbeat.models import DataFlow, DataFlowBeat, DataFlowRun

from ..conftest import MakeApp, heartbeat_of
from ..delivery import EXECUTOR
from ..notes import Note

Post = Callable[..., Any]
Work = Callable[[Run], Any]

DATABASE = make_url(os.environ.get("TEST_DATABASE_URL") or "sqlite://").get_backend_name()
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

pytestmark = pytest.mark.usefixtures("notes")
INSERT = "INSERT INTO notes_of_tests (name, mark, size)"
VALUES = "('text', 'text', 1)"


def a_note(name: str, mark: str | None = None) -> Note:
    """Build a row of a table of the tests' own: what the flows here write."""
    return Note(name=name, mark=mark or name, size=1)


@pytest.fixture
def run(make_app: MakeApp, post: Post, dbsession: Session) -> Callable[[Work], DataFlowRun]:
    """Run a flow by a beat; return the row of its run."""

    def run(work: Work) -> DataFlowRun:
        app = make_app((work, {"name": "work"}))

        reply = post(app).json

        row = dbsession.scalars(select(DataFlowRun)).one()
        assert reply["flows_triggered"] == 1
        assert (reply["flows_succeeded"], reply["flows_failed"]) == (
            (1, 0) if row.status == "success" else (0, 1)
        )
        return row

    return run


@pytest.fixture
def elsewhere(database_url: str) -> Iterator[Engine]:
    """Connect as another process would."""
    engine = make_engine(make_url(database_url), limits=Limits(write_lock=5))
    yield engine
    engine.dispose()


def written(dbsession: Session) -> list[str]:
    return list(dbsession.scalars(select(Note.name).order_by(Note.id)))


# ---------------------------------------------------------------------------------------------
# Both


def add_by_orm(run: Run) -> None:
    run.session.add(a_note("orm"))


def add_by_orm_and_flush(run: Run) -> None:
    run.session.add(a_note("flushed"))
    run.session.flush()


def insert_through_the_table(run: Run) -> None:
    table = Note.__table__
    run.session.execute(insert(Note).values(name="core", mark="1", size=1))
    run.session.execute(update(table).values(name="table"))  # type: ignore[arg-type]  # a Table


def insert_by_text(run: Run) -> None:
    run.session.execute(text(f"{INSERT} VALUES {VALUES}"))


def begin_with_a_savepoint(run: Run) -> None:
    with run.session.begin_nested():
        run.session.add(a_note("nested"))


def read_then_write(run: Run) -> None:
    names = run.session.scalars(select(Note.name)).all()
    run.session.add(a_note(f"after {len(names)}"))


def insert_after_with(run: Run) -> None:
    source = "WITH source AS (SELECT 1 AS size) "
    values = "SELECT 'with', 'with', size FROM source"
    run.session.execute(text(f"{source}{INSERT} {values}"))


WRITERS: list[tuple[Work, str]] = [
    (add_by_orm, "orm"),
    (add_by_orm_and_flush, "flushed"),
    (insert_through_the_table, "table"),
    (insert_by_text, "text"),
    (begin_with_a_savepoint, "nested"),
    (read_then_write, "after 0"),
    # MySQL and MariaDB have no such statement.
    *([(insert_after_with, "with")] if DATABASE in {"sqlite", "postgresql"} else []),
]
writers = pytest.mark.parametrize(
    ("work", "name"), WRITERS, ids=[work.__name__ for work, _ in WRITERS]
)


def test_a_flow_that_does_nothing_succeeds(run: Callable[[Work], DataFlowRun]) -> None:
    assert run(lambda _run: None).status == "success"


@writers
def test_what_a_flow_writes_is_kept_with_its_success(
    run: Callable[[Work], DataFlowRun], dbsession: Session, work: Work, name: str
) -> None:
    row = run(work)

    assert (row.status, row.error_message) == ("success", None)
    assert [written_name[:7] for written_name in written(dbsession)] == [name]


@writers
def test_a_failed_flow_is_rolled_back_and_its_run_is_kept(
    run: Callable[[Work], DataFlowRun], dbsession: Session, work: Work, name: str
) -> None:
    def write_and_raise(run: Run) -> None:
        work(run)
        raise LookupError(name)

    row = run(write_and_raise)

    assert (row.status, row.error_type, row.error_message) == ("failed", "LookupError", name)
    assert written(dbsession) == []


@writers
def test_success_and_writes_appear_to_others_together(
    run: Callable[[Work], DataFlowRun],
    dbsession: Session,
    elsewhere: Engine,
    work: Work,
    name: str,
) -> None:
    def write_and_look(run: Run) -> list[Any]:
        work(run)
        with Session(elsewhere) as session:
            return [written(session), session.scalars(select(DataFlowRun.status)).all()]

    row = run(write_and_look)

    assert row.result == [[], ["in_progress"]]
    assert (row.status, written(dbsession)) == ("success", [name])


def test_what_cannot_be_stored_as_the_result_takes_the_writes_with_it(
    run: Callable[[Work], DataFlowRun], dbsession: Session
) -> None:
    def work(run: Run) -> object:
        run.session.add(a_note("written"))
        return object()

    row = run(work)

    assert (row.status, row.error_type) == ("failed", "ResultError")
    assert written(dbsession) == []


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_a_flow_that_raises_a_base_exception_is_recorded_as_failed(
    run: Callable[[Work], DataFlowRun], dbsession: Session, raised: BaseException
) -> None:
    def work(run: Run) -> None:
        run.session.add(a_note("written"))
        run.session.flush()
        raise raised

    row = run(work)

    assert (row.status, row.error_type) == ("failed", type(raised).__name__)
    assert written(dbsession) == []


def test_an_error_that_only_the_commit_finds_fails_the_run(
    run: Callable[[Work], DataFlowRun], dbsession: Session
) -> None:
    def work(run: Run) -> None:
        run.session.add_all([a_note("one", "same"), a_note("two", "same")])

    row = run(work)

    assert (row.status, row.error_type) == ("failed", "IntegrityError")
    assert written(dbsession) == []


# ---------------------------------------------------------------------------------------------
# Errors that a flow swallows


def break_a_unique_constraint(run: Run) -> None:
    run.session.execute(insert(Note).values(name="twin", mark="outer", size=1))


def break_a_unique_constraint_by_text(run: Run) -> None:
    copy = "SELECT name, mark, 1 FROM notes_of_tests"
    run.session.execute(text(f"{INSERT} {copy}"))


def break_a_unique_constraint_by_a_flush(run: Run) -> None:
    run.session.add(a_note("twin", "outer"))
    run.session.flush()


BREAKERS = [
    break_a_unique_constraint,
    break_a_unique_constraint_by_text,
    break_a_unique_constraint_by_a_flush,
]


def write_more(run: Run) -> None:
    with suppress(SQLAlchemyError):
        run.session.add(a_note("more"))
        run.session.flush()


def read_more(run: Run) -> None:
    run.session.scalars(select(Note)).all()


def err_once_more(run: Run) -> None:
    with suppress(SQLAlchemyError):
        run.session.execute(text("SELECT no_such_column FROM notes_of_tests"))


def use_a_savepoint(run: Run) -> None:
    with suppress(SQLAlchemyError), run.session.begin_nested():
        run.session.add(a_note("nested"))


@pytest.mark.parametrize("break_it", BREAKERS)
@pytest.mark.parametrize(
    "then", [lambda _run: None, write_more, read_more, err_once_more, use_a_savepoint]
)
def test_a_swallowed_database_error_fails_the_run_with_that_error(
    run: Callable[[Work], DataFlowRun], dbsession: Session, break_it: Work, then: Work
) -> None:
    def work(run: Run) -> None:
        run.session.add(a_note("outer"))
        run.session.flush()
        with suppress(IntegrityError):
            break_it(run)
        then(run)

    row = run(work)

    assert (row.status, row.error_type) == ("failed", "IntegrityError")
    assert "begin_nested()" in (row.error_message or "")
    assert "twin" not in (row.error_message or "")
    assert written(dbsession) == []


@pytest.mark.parametrize("break_it", BREAKERS)
def test_an_error_caught_outside_of_its_savepoint_costs_nothing_else(
    run: Callable[[Work], DataFlowRun], dbsession: Session, break_it: Work
) -> None:
    def work(run: Run) -> None:
        run.session.add(a_note("outer"))
        run.session.flush()
        for _ in range(2):
            with suppress(IntegrityError), run.session.begin_nested():
                run.session.add(a_note("inner"))
                run.session.flush()
                break_it(run)
        run.session.add(a_note("after"))

    row = run(work)

    assert (row.status, row.error_message) == ("success", None)
    assert written(dbsession) == ["outer", "after"]


@pytest.mark.parametrize("break_it", [break_a_unique_constraint, break_a_unique_constraint_by_text])
def test_an_error_swallowed_within_its_savepoint_fails_the_run(
    run: Callable[[Work], DataFlowRun], dbsession: Session, break_it: Work
) -> None:
    def work(run: Run) -> None:
        run.session.add(a_note("outer"))
        run.session.flush()
        with run.session.begin_nested(), suppress(IntegrityError):
            break_it(run)

    row = run(work)

    assert (row.status, row.error_type) == ("failed", "IntegrityError")
    assert "begin_nested()" in (row.error_message or "")
    assert written(dbsession) == []


@pytest.mark.parametrize("break_it", [break_a_unique_constraint, break_a_unique_constraint_by_text])
def test_an_error_swallowed_in_a_savepoint_left_open_fails_the_run(
    run: Callable[[Work], DataFlowRun], dbsession: Session, break_it: Work
) -> None:
    def work(run: Run) -> None:
        run.session.add(a_note("outer"))
        run.session.flush()
        run.session.begin_nested()
        with suppress(IntegrityError):
            break_it(run)

    row = run(work)

    assert (row.status, row.error_type) == ("failed", "IntegrityError")
    assert written(dbsession) == []


if DATABASE == "sqlite":  # MySQL does it at a deadlock: see concurrency/test_row_locks.py

    def break_the_transaction(run: Run) -> None:
        copy = "SELECT name, mark, 1 FROM notes_of_tests"
        run.session.execute(text(f"{INSERT.replace('INSERT', 'INSERT OR ROLLBACK')} {copy}"))

    def test_an_error_that_undoes_more_than_its_savepoint_fails_the_run(
        run: Callable[[Work], DataFlowRun], dbsession: Session
    ) -> None:
        def work(run: Run) -> None:
            run.session.add(a_note("outer"))
            run.session.flush()
            with suppress(SQLAlchemyError), run.session.begin_nested():
                break_the_transaction(run)
            run.session.add(a_note("after"))

        row = run(work)

        assert (row.status, row.error_type) == ("failed", "IntegrityError")
        assert written(dbsession) == []


def test_a_flush_that_fails_within_its_savepoint_has_undone_it(
    run: Callable[[Work], DataFlowRun], dbsession: Session
) -> None:
    def work(run: Run) -> None:
        run.session.add(a_note("outer"))
        run.session.flush()
        with run.session.begin_nested(), suppress(IntegrityError):
            break_a_unique_constraint_by_a_flush(run)

    row = run(work)

    assert (row.status, row.error_message) == ("success", None)
    assert written(dbsession) == ["outer"]


def test_a_savepoint_left_open_is_kept_with_the_success(
    run: Callable[[Work], DataFlowRun], dbsession: Session
) -> None:
    def work(run: Run) -> None:
        run.session.add(a_note("outer"))
        run.session.begin_nested()
        run.session.add(a_note("inner"))

    row = run(work)

    assert (row.status, row.error_message) == ("success", None)
    assert written(dbsession) == ["outer", "inner"]


# ---------------------------------------------------------------------------------------------
# The engine alone ends the transaction


def commit(session: Session) -> None:
    session.commit()


def roll_back(session: Session) -> None:
    session.rollback()


def close(session: Session) -> None:
    session.close()


def leave_its_context(session: Session) -> None:
    with session:
        pass


ENDINGS = [commit, roll_back, close, leave_its_context]


@pytest.mark.parametrize("end", ENDINGS)
def test_a_flow_that_ends_the_transaction_gets_an_error(
    run: Callable[[Work], DataFlowRun], dbsession: Session, end: Callable[[Session], None]
) -> None:
    def work(run: Run) -> None:
        run.session.add(a_note("before"))
        run.session.flush()
        end(run.session)

    row = run(work)

    assert (row.status, row.error_type) == ("failed", "SessionControlError")
    assert "the engine ends the transaction" in (row.error_message or "")
    assert written(dbsession) == []


@pytest.mark.parametrize("end", ENDINGS)
def test_a_flow_that_ends_the_transaction_fails_even_if_it_swallows_the_error(
    run: Callable[[Work], DataFlowRun], dbsession: Session, end: Callable[[Session], None]
) -> None:
    def work(run: Run) -> None:
        run.session.add(a_note("before"))
        run.session.flush()
        with suppress(SessionControlError):
            end(run.session)
        run.session.add(a_note("after"))

    row = run(work)

    assert (row.status, row.error_type) == ("failed", "SessionControlError")
    assert written(dbsession) == []


@pytest.mark.parametrize("errors", [["break", "end"], ["end", "break"], ["break", "raise"]])
def test_of_several_errors_that_a_flow_swallows_the_first_is_recorded(
    run: Callable[[Work], DataFlowRun], dbsession: Session, errors: list[str]
) -> None:
    def work(run: Run) -> None:
        run.session.add(a_note("outer"))
        run.session.flush()
        for error in errors:
            with suppress(SQLAlchemyError, SessionControlError):
                if error == "break":
                    break_a_unique_constraint(run)
                elif error == "end":
                    run.session.commit()
                else:
                    run.session.execute(text("SELECT no_such_column FROM notes_of_tests"))

    row = run(work)

    first = {"break": "IntegrityError", "end": "SessionControlError"}[errors[0]]
    assert (row.status, row.error_type) == ("failed", first)
    assert written(dbsession) == []


# A way around the session's own methods may raise what it likes, but may not part the two.
WAYS_AROUND: list[Callable[[Any], None]] = [
    lambda session: session.get_transaction().rollback(),
    lambda session: session.get_transaction().close(),
    lambda session: session.get_transaction().commit(),
    lambda session: session.connection().get_transaction().rollback(),
    lambda session: session.connection().rollback(),
    lambda session: session.connection().close(),
    lambda session: session.begin(),
    lambda session: session.begin().rollback(),
    lambda session: session.reset(),
    lambda session: session.invalidate(),
    lambda session: session.connection(execution_options={"isolation_level": "AUTOCOMMIT"}),
]


@pytest.mark.parametrize("first", [[], ["before"]], ids=["unused", "used"])
@pytest.mark.parametrize("last", [[], ["after"]], ids=["left", "used again"])
@pytest.mark.parametrize("fails", [False, True], ids=["ends", "fails"])
@pytest.mark.parametrize("end", WAYS_AROUND, ids=range(len(WAYS_AROUND)))
def test_no_way_around_parts_success_and_writes(
    run: Callable[[Work], DataFlowRun],
    dbsession: Session,
    *,
    end: Callable[[Any], None],
    first: list[str],
    last: list[str],
    fails: bool,
) -> None:
    def work(run: Run) -> None:
        run.session.add_all([a_note(name) for name in first])
        run.session.flush()
        with suppress(Exception):
            end(run.session)
        run.session.add_all([a_note(name) for name in last])
        run.session.flush()
        if fails:
            raise ValueError

    row = run(work)

    kept = [] if fails else [("success", first + last)]
    assert (row.status, written(dbsession)) in [*kept, ("failed", [])]


@pytest.mark.parametrize(("work", "then"), [(lambda _run: None, 0), (add_by_orm, 1)])
def test_a_flow_holds_a_connection_only_once_it_uses_its_session(
    make_app: MakeApp, post: Post, work: Work, then: int
) -> None:
    held = list[int]()

    def flow(run: Run) -> None:
        pool: Any = heartbeat_of(app).flow_engine.pool
        held.append(pool.checkedout())
        work(run)
        run.session.flush()
        held.append(pool.checkedout())

    app = make_app((flow, {"every": "1h"}))

    assert post(app).json["flows_succeeded"] == 1
    assert held == [0, then]


# ---------------------------------------------------------------------------------------------
# A claim that was lost


def reaped(session: Session, moment: datetime) -> None:
    """End the run as a process does that believes its worker dead."""
    values = {"status": "failed", "error_type": "LeaseExpired", "ended_at": moment}
    session.execute(update(DataFlowRun).values(values))


def taken_over(session: Session, _moment: datetime) -> None:
    session.execute(update(DataFlowRun).values(claim_id="of somebody else"))


def removed(session: Session, _moment: datetime) -> None:
    session.execute(DataFlow.__table__.delete())  # type: ignore[attr-defined]  # a Table


@pytest.mark.parametrize("ends_with", [None, ValueError()])
@pytest.mark.parametrize("lose", [reaped, taken_over])
def test_a_run_that_lost_its_claim_commits_nothing(
    make_app: MakeApp,
    post: Post,
    elsewhere: Engine,
    lose: Callable[[Session, datetime], None],
    ends_with: Exception | None,
) -> None:
    def snapshot() -> list[Any]:
        with Session(elsewhere) as session:
            flow = select(DataFlow.last_run_at, DataFlow.last_run_status, DataFlow.window_starts_at)
            ours = select(
                DataFlowRun.status,
                DataFlowRun.claim_id,
                DataFlowRun.error_type,
                DataFlowRun.ended_at,
                DataFlowRun.duration,
                DataFlowRun.result,
            )
            return [session.execute(flow).all(), session.execute(ours).all(), written(session)]

    after_the_loss: list[Any] = []

    def work(run: Run) -> dict[str, str]:
        # Before the flow writes: SQLite has one write lock.
        with Session(elsewhere) as session:
            lose(session, NOW)
            session.commit()
        after_the_loss.extend(snapshot())
        run.session.add(a_note("written"))
        run.session.flush()
        if ends_with is not None:
            raise ends_with
        return {"written": "one"}

    # With Celery, a beat sees that another process still executes the run that it took over.
    goes_on = EXECUTOR == "celery" and lose is taken_over
    reply = post(make_app(work), status=202 if goes_on else 200).json

    assert reply["flows_succeeded"] == 0
    assert reply["flows_in_progress" if goes_on else "flows_failed"] == 1
    assert snapshot() == after_the_loss
    assert after_the_loss[-1] == []


def test_a_run_whose_flow_was_removed_meanwhile_commits_nothing(
    make_app: MakeApp, post: Post, elsewhere: Engine, dbsession: Session
) -> None:
    def work(run: Run) -> None:
        with Session(elsewhere) as session:
            removed(session, NOW)
            session.commit()
        run.session.add(a_note("written"))

    reply = post(make_app(work)).json

    assert reply["flows_failed"] == 1
    assert written(dbsession) == []
    assert dbsession.scalars(select(DataFlowRun)).all() == []


# ---------------------------------------------------------------------------------------------
# The transaction of the request


def with_tm_and_retry(config: Configurator) -> None:
    """Make it an application whose requests are retried, and whose transactions never commit."""
    config.add_settings(
        {
            "tm.manager_hook": "pyramid_tm.explicit_manager",
            "tm.commit_veto": lambda _request, _response: True,
            "retry.attempts": 3,
        }
    )
    config.include("pyramid_tm")
    config.include("pyramid_retry")


def test_nothing_in_a_beat_joins_the_transaction_of_the_request(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    def work(run: Run) -> None:
        run.session.add(a_note("written"))

    post(make_app(work, configure=with_tm_and_retry))

    assert written(dbsession) == ["written"]
    assert dbsession.scalars(select(DataFlowRun.status)).all() == ["success"]
    assert dbsession.scalars(select(DataFlowBeat.flows_succeeded)).all() == [1]


@pytest.mark.parametrize(
    "error",
    [
        RetryableException(),
        TransientError(),
        DBAPIError("SELECT 1", {}, Exception("deadlock detected")),
    ],
)
def test_a_retryable_error_of_a_flow_repeats_nothing(
    make_app: MakeApp, post: Post, dbsession: Session, error: Exception
) -> None:
    calls = []

    def work(run: Run) -> None:
        calls.append(run.id)
        run.session.add(a_note("written"))
        raise error

    reply = post(make_app(work, configure=with_tm_and_retry)).json

    assert (reply["flows_triggered"], reply["flows_failed"]) == (1, 1)
    assert len(calls) == 1
    assert dbsession.scalars(select(DataFlowRun.error_type)).all() == [type(error).__name__]
    assert len(dbsession.scalars(select(DataFlowBeat)).all()) == 1
    assert written(dbsession) == []
