"""The fixture `run_flow`: a flow runs in the session of a test as the engine would run it."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Unpack

import pytest
from pydantic import BaseModel, Field
from sqlalchemy import insert, make_url, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run, Window, flow, make_engine
from data_flows.heartbeat.errors import (
    ConfigurationError,
    DeclarationError,
    ResultError,
    SessionControlError,
    SessionEndedError,
)
from data_flows.heartbeat.optional.testing import RunFlow
from data_flows.heartbeat.registry import FlowOptions

from ..notes import Note

pytestmark = pytest.mark.usefixtures("notes")
NOW = datetime(2026, 3, 1, 12, 7, tzinfo=UTC)
HOUR = timedelta(hours=1)


def note(name: str) -> Note:
    """Build a row that flows write."""
    return Note(name=name, mark=name)


def names(session: Session) -> list[str]:
    return list(session.scalars(select(Note.name).order_by(Note.id)))


def add_one(run: Run) -> dict[str, int]:
    run.session.add(note("one"))
    run.log.info("added %s", "one")
    return {"added": 1}


def test_result_log_and_writes_are_seen_and_nothing_stays(
    run_flow: RunFlow, dbsession: Session, database_url: str
) -> None:
    outcome = run_flow(add_one)

    assert (outcome.result, outcome.error) == ({"added": 1}, None)
    assert outcome.log.endswith(" INFO added one")
    assert names(dbsession) == ["one"]
    engine = make_engine(make_url(database_url))
    with Session(engine) as elsewhere:
        assert names(elsewhere) == []
    dbsession.rollback()
    assert names(dbsession) == []
    engine.dispose()


def test_a_flow_sees_what_the_test_has_stored_and_the_test_what_the_flow_has_changed(
    run_flow: RunFlow, dbsession: Session
) -> None:
    mine = note("mine")
    dbsession.add(mine)

    def rename(run: Run) -> list[str]:
        found = names(run.session)
        run.session.execute(update(Note).values(name="renamed"))
        return found

    assert run_flow(rename).result == ["mine"]
    assert mine.name == "renamed"


def test_the_writes_of_a_failing_flow_are_rolled_back_and_no_others(
    run_flow: RunFlow, dbsession: Session
) -> None:
    dbsession.add(note("mine"))

    def fail(run: Run) -> None:
        run.session.add(note("gone"))
        with run.session.begin_nested():
            run.session.add(note("gone, too"))
        raise LookupError("no such bird")

    outcome = run_flow(fail)

    assert isinstance(outcome.error, LookupError)
    assert (outcome.result, names(dbsession)) == (None, ["mine"])
    assert run_flow(add_one).error is None
    assert names(dbsession) == ["mine", "one"]


@pytest.mark.parametrize("swallow", [False, True])
@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda session: session.commit(), id="commit()"),
        pytest.param(lambda session: session.rollback(), id="rollback()"),
        pytest.param(lambda session: session.close(), id="close()"),
        pytest.param(lambda session: session.connection().commit(), id="commit() of a connection"),
        pytest.param(lambda session: session.connection().rollback(), id="rollback() of it"),
        pytest.param(lambda session: session.execute(text("COMMIT")), id="COMMIT"),
        pytest.param(lambda session: session.execute(text("/* */ rollback")), id="ROLLBACK"),
    ],
)
def test_a_flow_cannot_end_the_transaction(
    run_flow: RunFlow, dbsession: Session, end: Callable[[Session], Any], *, swallow: bool
) -> None:
    dbsession.add(note("mine"))

    def work(run: Run) -> None:
        run.session.add(note("flow's"))
        run.session.flush()
        try:
            end(run.session)
        except SessionControlError:
            if not swallow:
                raise

    assert isinstance(run_flow(work).error, SessionControlError)
    assert names(dbsession) == ["mine"]


def test_a_swallowed_database_error_fails_the_run_with_the_first_one(
    run_flow: RunFlow, dbsession: Session
) -> None:
    dbsession.add(note("mine"))

    def work(run: Run) -> None:
        for mark in ("mine", "other"):
            with suppress(Exception):
                run.session.execute(insert(Note).values(name="again", mark=mark, size=1))
        # A later savepoint that is rolled back does not undo the first error.
        with suppress(Exception), run.session.begin_nested():
            run.session.execute(insert(Note).values(name="again", mark="mine", size=1))

    error = run_flow(work).error

    assert isinstance(error, IntegrityError)
    assert "begin_nested()" in "".join(error.__notes__)
    assert names(dbsession) == ["mine"]


def test_an_error_in_a_savepoint_can_be_survived(run_flow: RunFlow, dbsession: Session) -> None:
    dbsession.add(note("mine"))

    def work(run: Run) -> None:
        with suppress(IntegrityError), run.session.begin_nested():
            run.session.add(note("mine"))
        run.session.add(note("second"))

    assert run_flow(work).error is None
    assert names(dbsession) == ["mine", "second"]


def test_what_is_flushed_at_the_end_may_fail_the_run(run_flow: RunFlow, dbsession: Session) -> None:
    dbsession.add(note("mine"))

    def work(run: Run) -> None:
        run.session.add(note("mine"))

    assert isinstance(run_flow(work).error, IntegrityError)
    assert names(dbsession) == ["mine"]


@pytest.mark.parametrize("fails", [False, True])
def test_after_its_run_the_session_refuses(
    run_flow: RunFlow, dbsession: Session, *, fails: bool
) -> None:
    kept: list[Session] = []

    def work(run: Run) -> None:
        kept.append(run.session)
        add_one(run)
        if fails:
            raise LookupError

    run_flow(work)

    with pytest.raises(SessionEndedError):
        kept[0].add(note("late"))
    dbsession.execute(text("SELECT 1"))


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), KeyError("x")])
def test_any_error_of_the_flow_is_returned(run_flow: RunFlow, error: BaseException) -> None:
    def work(_run: Run) -> None:
        raise error

    assert run_flow(work).error is error


@pytest.mark.parametrize("error", [KeyboardInterrupt, pytest.skip.Exception, pytest.fail.Exception])
def test_what_ends_the_test_is_raised(run_flow: RunFlow, error: type[BaseException]) -> None:
    def work(_run: Run) -> None:
        raise error

    with pytest.raises(error):
        run_flow(work)


def test_a_result_is_what_a_run_would_store(run_flow: RunFlow) -> None:
    given: list[object] = [{1: (2, 3)}, None, {1, 2}]

    def work(_run: Run) -> object:
        return given.pop(0)

    assert run_flow(work).result == {"1": [2, 3]}
    assert run_flow(work).result is None
    assert isinstance(run_flow(work).error, ResultError)


class Limits(BaseModel):
    """The configuration of a flow here."""

    limit: int = Field(10, ge=1)


@flow(every="5m", name="limited", configuration=Limits)
def limited(run: Run) -> list[Any]:
    """Return what was configured."""
    return [run.flow_name, type(run.configuration).__name__, run.configuration.limit]


def test_the_decorator_gives_the_options_and_the_model_checks_the_configuration(
    run_flow: RunFlow,
) -> None:
    assert run_flow(limited).result == ["limited", "Limits", 10]
    assert run_flow(limited, configuration={"limit": 3}).result == ["limited", "Limits", 3]
    assert run_flow(limited, configuration=Limits(limit=4)).result == ["limited", "Limits", 4]
    error = run_flow(limited, configuration={"limit": 0}).error
    assert isinstance(error, ConfigurationError)
    assert "limit is 0" in str(error)


def test_a_configuration_that_no_row_can_hold_is_an_error_of_the_test(run_flow: RunFlow) -> None:
    with pytest.raises(ValueError, match="cannot be stored as JSON"):
        run_flow(limited, configuration={"limit": NOW})


def test_a_function_of_the_directive_gets_its_options(run_flow: RunFlow) -> None:
    def work(run: Run) -> object:
        return {"name": run.flow_name, "configuration": run.configuration}

    options: FlowOptions = {"every": "5m", "name": "own", "configuration": {"region": "eu"}}

    outcome = run_flow(work, options=options)

    assert outcome.result == {"name": "own", "configuration": {"region": "eu"}}
    assert run_flow(work, configuration={"a": 1}).result == {
        "name": "work",
        "configuration": {"a": 1},
    }
    with pytest.raises(DeclarationError, match="every is '5 minutes'"):
        run_flow(work, options={"every": "5 minutes"})


def span(run: Run) -> list[str | None]:
    """Return the window and the slot of a run."""
    times = (run.window.start, run.window.end, run.scheduled_for)
    return [time.isoformat() if time else None for time in times]


def test_the_window_is_that_of_the_first_run(run_flow: RunFlow) -> None:
    def window_of(**options: Unpack[FlowOptions]) -> Any:
        return run_flow(span, now=NOW, options=options).result

    slot = "2026-03-01T12:07:00+00:00"
    assert window_of(every="5m") == ["2026-03-01T12:02:00+00:00", slot, slot]
    slot = "2026-03-01T12:00:00+00:00"
    assert window_of(cron="0 * * * *") == ["2026-03-01T11:00:00+00:00", slot, slot]
    slot = "2026-03-01T12:07:00+00:00"
    assert window_of(cron="7 * * * *") == ["2026-03-01T11:07:00+00:00", slot, slot]


def test_a_window_can_be_given(run_flow: RunFlow) -> None:
    window = Window(NOW - 3 * HOUR, NOW - 2 * HOUR)

    result = run_flow(span, window=window, now=NOW).result

    assert result[:2] == ["2026-03-01T09:07:00+00:00", "2026-03-01T10:07:00+00:00"]
    naive = NOW.replace(tzinfo=None)
    with pytest.raises(ValueError, match="has no time zone"):
        run_flow(span, now=naive)
    with pytest.raises(ValueError, match="has no time zone"):
        run_flow(span, window=Window(naive, naive))
    with pytest.raises(ValueError, match="must not end before its start"):
        run_flow(span, window=Window(NOW, NOW - HOUR))


def test_the_default_window_ends_now(run_flow: RunFlow) -> None:
    before = datetime.now(UTC)

    result = run_flow(span).result

    assert before <= datetime.fromisoformat(result[1]) <= datetime.now(UTC)


def test_many_flows_run_in_one_test(run_flow: RunFlow, dbsession: Session) -> None:
    def work(run: Run) -> int:
        run.session.add(note(f"row {run.id}"))
        return run.id

    assert [run_flow(work).result for _ in range(3)] == [1, 2, 3]
    assert names(dbsession) == ["row 1", "row 2", "row 3"]
