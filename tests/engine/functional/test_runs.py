"""The execution of a run: the arguments of its flow, its result, and its errors."""

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlow, DataFlowBeat, DataFlowRun

from ..conftest import TOKEN, FakeClock, MakeApp, heartbeat_of
from ..factories import NOON, data_flow
from .conftest import Gate, settle

Post = Callable[..., Any]


def fine(_run: Run) -> None:
    """Succeed, beside a flow that does not."""


def run_of(dbsession: Session, name: str) -> DataFlowRun:
    """Return the only run of a flow, as it is now."""
    dbsession.rollback()
    return dbsession.scalars(
        select(DataFlowRun).join(DataFlowRun.data_flow).where(DataFlow.name == name)
    ).one()


# ---------------------------------------------------------------------------------------------
# Arguments and results of a flow


def test_a_flow_is_given_its_run(make_app: MakeApp, post: Post, dbsession: Session) -> None:
    given: list[Run] = []

    post(make_app((given.append, {"name": "look", "configuration": {"region": "eu"}})))

    [run] = given
    row = run_of(dbsession, "look")
    assert (run.id, run.flow_name, run.attempt) == (row.id, "look", 1)
    assert run.configuration == {"region": "eu"}
    assert run.scheduled_for == NOON
    assert (run.window.start, run.window.end) == (NOON - timedelta(minutes=5), NOON)
    assert (row.trigger, row.missed_slots) == ("schedule", 0)


@pytest.mark.parametrize(
    "result",
    [None, {}, [], "", 0, False, 1.5, "Käuzchen 🦉", 2**40, {"rows": [1, {"a": None}]}, "a\0b"],
)
def test_what_a_flow_returns_is_kept(
    make_app: MakeApp, post: Post, dbsession: Session, result: object
) -> None:
    post(make_app((lambda _run: result, {"name": "give"})))

    row = run_of(dbsession, "give")
    assert row.status == "success", row.error_message
    assert row.result == result


def in_a_circle() -> list[Any]:
    """Return a list that contains itself."""
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "result",
    [object(), {1, 2}, b"bytes", NOON, math.nan, {"rate": math.inf}, in_a_circle(), {(1, 2): 3}],
    ids=["object", "set", "bytes", "datetime", "NaN", "infinity", "circle", "tuple as a key"],
)
def test_a_result_that_is_not_json_fails_with_the_fix(
    make_app: MakeApp, post: Post, dbsession: Session, result: object
) -> None:
    def give(run: Run) -> object:
        run.session.execute(text("UPDATE data_flows SET description = 'written'"))
        return result

    reply = post(make_app(give)).json

    row = run_of(dbsession, "give")
    assert (row.status, row.error_type) == ("failed", "ResultError")
    assert "is not JSON" in (row.error_message or "")
    assert "return None, or a dict or list" in (row.error_message or "")
    assert row.data_flow.description != "written"
    assert reply["flows_failed"] == 1


def test_what_a_flow_logs_is_kept_with_its_run(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    def talk(run: Run) -> None:
        run.log.info("read %d rows", 3)
        run.log.debug("too small to keep")
        run.log.warning("token=hunter2 and %s", TOKEN)

    post(make_app(talk))

    row = run_of(dbsession, "talk")
    assert row.status == "success", row.error_message
    assert "INFO read 3 rows" in (row.log or "")
    assert "WARNING token=***" in (row.log or "")
    for part in ("too small", "hunter2", TOKEN):
        assert part not in (row.log or "")


# ---------------------------------------------------------------------------------------------
# Errors of a flow


class Unspeakable(Exception):  # noqa: N818 - its name is what the test is about
    """An error that cannot be turned into text, in the worst of ways."""

    def __str__(self) -> str:
        """Raise an unexpected error."""
        raise SystemExit(7)


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        StopIteration(),
        MemoryError(),
        RecursionError("too deep"),
        ExceptionGroup("several", [ValueError("one"), TypeError("two")]),
        Unspeakable("?"),
        ValueError("NUL \0, surrogate \udcff, owl 🦉"),
        ValueError("x" * 1_000_000),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_flow_raises_is_recorded_and_stops_nothing(
    make_app: MakeApp, post: Post, dbsession: Session, error: BaseException
) -> None:
    def fail(_run: Run) -> None:
        raise error

    app = make_app(fail, (fine, {"name": "next"}), **{"heartbeat.workers": "1"})

    reply = post(app).json

    row = run_of(dbsession, "fail")
    assert (row.status, row.error_type) == ("failed", type(error).__name__)
    assert "raise error" in (row.error_backtrace or "")
    assert run_of(dbsession, "next").status == "success"
    assert (reply["flows_failed"], reply["flows_in_progress"]) == (1, 0)


def test_the_secrets_of_the_engine_are_in_no_row(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    def fail(_run: Run) -> None:
        message = f"got 401 with {TOKEN} from https://joe:hunter2@api.example/"
        raise PermissionError(message)

    post(make_app(fail))

    row = run_of(dbsession, "fail")
    kept = f"{row.error_message} {row.error_backtrace} {row.log}"
    assert "api.example" in kept
    assert TOKEN not in kept
    assert "hunter2" not in kept.replace('joe:hunter2@api.example/"', "")


# ---------------------------------------------------------------------------------------------
# A configuration that is not an object


@pytest.mark.parametrize("stored", ["[1, 2]", '"text"', "5", "true", "{oops", ""])
def test_an_invalid_stored_configuration_fails_its_own_flow_alone(
    make_app: MakeApp, post: Post, dbsession: Session, clock: FakeClock, stored: str
) -> None:
    app = make_app((fine, {"name": "broken"}), (fine, {"name": "fine"}))
    post(app)
    if dbsession.get_bind().dialect.name != "sqlite" and stored in {"{oops", ""}:
        # Only SQLite stores invalid JSON: the others must refuse it.
        stored = "[1, 2]"
    dbsession.execute(
        text("UPDATE data_flows SET configuration = :c WHERE name = 'broken'"), {"c": stored}
    )
    dbsession.commit()
    clock.advance(300)

    reply = post(app).json

    failed = dbsession.scalars(select(DataFlowRun).where(DataFlowRun.status == "failed")).one()
    assert failed.error_type == "ConfigurationError"
    assert "flow 'broken' must be a JSON object, such as {}" in (failed.error_message or "")
    assert (reply["flows_succeeded"], reply["flows_failed"]) == (1, 1)


@pytest.mark.parametrize("stored", ["null", None])
def test_no_configuration_is_an_empty_one(
    make_app: MakeApp, post: Post, dbsession: Session, clock: FakeClock, stored: str | None
) -> None:
    seen: list[dict[str, Any]] = []
    app = make_app((lambda run: seen.append(run.configuration), {"name": "look"}))
    post(app)
    dbsession.execute(text("UPDATE data_flows SET configuration = :c"), {"c": stored})
    dbsession.commit()
    clock.advance(300)

    post(app)

    assert seen == [{}, {}]


# ---------------------------------------------------------------------------------------------
# Flows that take longer than the beat may


@pytest.fixture
def slow(make_app: MakeApp, gate: Gate, clock: FakeClock) -> TestApp:
    """Make an application with a flow that waits at the gate until its beat's time is up."""

    def wait(_run: Run) -> dict[str, int]:
        gate.hold()
        return {"rows": 3}

    def let_time_pass(_run: Run) -> None:
        gate.wait_for_arrival()
        clock.advance(60)

    return make_app((wait, {"name": "slow", "every": "1m"}), (let_time_pass, {"every": "1d"}))


def test_a_flow_that_outlives_the_wait_is_answered_202_and_goes_on(
    slow: TestApp, gate: Gate, post: Post, dbsession: Session
) -> None:
    reply = post(slow, status=202).json
    during = run_of(dbsession, "slow").status
    gate.open()
    settle()

    row = run_of(dbsession, "slow")
    assert (reply["flows_due"], reply["flows_triggered"], reply["flows_failed"]) == (2, 2, 0)
    # The flow that advances the clock may not have ended when the time of the beat is up.
    assert (reply["flows_succeeded"], reply["flows_in_progress"]) in {(1, 1), (0, 2)}
    assert during == "in_progress"
    assert (row.status, row.result) == ("success", {"rows": 3})


def test_a_flow_that_is_still_running_is_not_started_again(
    slow: TestApp, gate: Gate, post: Post, dbsession: Session
) -> None:
    post(slow, status=202)

    reply = post(slow, status=200).json
    gate.open()
    settle()

    assert (reply["flows_due"], reply["flows_triggered"], reply["flows_in_progress"]) == (0, 0, 0)
    assert run_of(dbsession, "slow").status == "success"


def test_a_flow_that_ends_within_the_wait_is_answered_200(
    make_app: MakeApp, gate: Gate, post: Post
) -> None:
    def open_for_the_other(_run: Run) -> None:
        gate.wait_for_arrival()
        gate.open()

    app = make_app((lambda _run: gate.hold(), {"name": "waits"}), open_for_the_other)

    reply = post(app, status=200).json

    assert reply["flows_succeeded"] == 2


@pytest.mark.local_executor("claims for its free workers alone")
def test_what_finds_no_free_worker_waits_for_the_next_beat(
    make_app: MakeApp, gate: Gate, post: Post, dbsession: Session
) -> None:
    dbsession.add(data_flow(name="holds", next_run_at=NOON - timedelta(minutes=1)))
    dbsession.commit()
    settings = {"heartbeat.wait": "0", "heartbeat.workers": "1"}
    app = make_app((lambda _run: gate.hold(), {"name": "holds"}), fine, **settings)

    post(app, status="2*")
    gate.wait_for_arrival()
    during = dbsession.scalars(select(DataFlowRun.status)).all()
    dbsession.rollback()
    gate.open()
    settle()
    post(app, status="2*")
    settle()

    assert during == ["in_progress"]
    assert dbsession.scalars(select(DataFlowRun.status)).all() == ["success", "success"]


def test_each_beat_has_a_row(make_app: MakeApp, post: Post, dbsession: Session) -> None:
    app = make_app(fine)

    for _ in range(3):
        post(app)

    due = dbsession.scalars(select(DataFlowBeat.flows_due).order_by(DataFlowBeat.id)).all()
    assert due == [1, 0, 0]


def test_a_run_whose_row_is_removed_meanwhile_leaves_nothing(
    slow: TestApp, gate: Gate, post: Post, dbsession: Session
) -> None:
    post(slow, status=202)
    dbsession.execute(text("DELETE FROM data_flows"))
    dbsession.commit()
    gate.open()
    settle()

    assert dbsession.scalars(select(DataFlowRun.id)).all() == []
    assert post(slow, status=200).json["flows_due"] == 0


def test_a_lost_run_is_reaped_by_the_next_beat(
    make_app: MakeApp, post: Post, dbsession: Session, clock: FakeClock
) -> None:
    app = make_app(fine, **{"heartbeat.lease": "60"})
    post(app)
    run = run_of(dbsession, "fine")
    run.status, run.ended_at, run.lease_expires_at = "in_progress", None, NOON
    dbsession.commit()
    clock.advance(61)

    reply = post(app).json

    assert reply["runs_reaped"] == 1
    row = run_of(dbsession, "fine")
    assert (row.status, row.error_type) == ("failed", "LeaseExpired")
    assert heartbeat_of(app).worker in (row.error_message or "")
