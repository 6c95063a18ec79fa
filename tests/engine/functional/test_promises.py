"""The promises that this engine takes over from the one it succeeds, each under its number.

The last, 20, that one command installs it, is shown by the tests of the template; and that a row
without a handler is shown, of 16, by those of the optional commands that do it.
"""

import itertools
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run
from data_flows.heartbeat.db import begin_writing
from data_flows.heartbeat.errors import DeclarationError, StatusError
from data_flows.heartbeat.models import DataFlow, DataFlowBeat, DataFlowRun, RunStatus

from ..conftest import TOKEN, FakeClock, MakeApp
from ..entrances import both_entrances
from ..factories import NOON, data_flow, data_flow_run
from .conftest import settle

Post = Callable[..., Any]


class Notes:
    """A flow that notes whose runs it was called for. Any number of rows may share it."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, run: Run) -> None:
        """Note the name of the run's flow."""
        self.names.append(run.flow_name)


@pytest.fixture
def notes() -> Notes:
    """Make the flow that rows of the handler "note" share."""
    return Notes()


@pytest.fixture
def handler(notes: Notes) -> tuple[Notes, dict[str, str]]:
    """Give that flow as `make_app` takes it. Its own row is not due, so that others can be seen."""
    return notes, {"name": "note", "start": "next"}


Handler = tuple[Notes, dict[str, str]]


def add_flows(dbsession: Session, **next_run_at: datetime | None) -> None:
    """Store flows that share the handler "note", by name and the time of their next slot."""
    for name, moment in next_run_at.items():
        columns = (
            {} if moment is None else {"next_run_at": moment, "last_slot_at": moment - minutes(5)}
        )
        dbsession.add(data_flow(name=name, handler="note", **columns))
    dbsession.commit()


def all_runs(dbsession: Session) -> list[DataFlowRun]:
    """Return the rows of all runs as they are now, oldest first."""
    dbsession.rollback()
    return list(dbsession.scalars(select(DataFlowRun).order_by(DataFlowRun.id)))


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def test_p01_only_enabled_flows_are_due(
    make_app: MakeApp, post: Post, dbsession: Session, notes: Notes, handler: Handler
) -> None:
    dbsession.add(data_flow(name="off", handler="note", enabled=False))
    dbsession.add(data_flow(name="on", handler="note"))
    dbsession.commit()

    reply = post(make_app(handler)).json

    assert notes.names == ["on"]
    assert reply["flows_due"] == 1


def test_p02_a_flow_that_was_never_run_is_due(
    make_app: MakeApp, post: Post, dbsession: Session, notes: Notes
) -> None:
    reply = post(make_app((notes, {"name": "declared"}))).json

    assert notes.names == ["declared"]
    assert reply["flows_due"] == 1
    assert all_runs(dbsession)[0].scheduled_for == NOON


def test_p02_a_row_that_was_made_by_hand_and_never_run_is_due(
    make_app: MakeApp, post: Post, dbsession: Session, notes: Notes, handler: Handler
) -> None:
    add_flows(dbsession, by_hand=None)

    post(make_app(handler))

    assert notes.names == ["by_hand"]


def test_p03_a_flow_whose_interval_has_passed_is_due_and_another_is_not(
    make_app: MakeApp, post: Post, dbsession: Session, notes: Notes, handler: Handler
) -> None:
    add_flows(dbsession, passed=NOON - minutes(1), ahead=NOON + minutes(1))

    reply = post(make_app(handler)).json

    assert notes.names == ["passed"]
    assert reply["flows_due"] == 1


def test_p03_a_flow_is_due_again_when_its_interval_has_passed(
    make_app: MakeApp, post: Post, clock: FakeClock, notes: Notes
) -> None:
    app = make_app((notes, {"name": "again"}))
    post(app)

    clock.advance(240)
    too_early = post(app).json
    clock.advance(60)
    in_time = post(app).json

    assert (too_early["flows_due"], in_time["flows_due"]) == (0, 1)
    assert len(notes.names) == 2


def test_p04_the_most_overdue_flow_is_run_first(
    make_app: MakeApp, post: Post, dbsession: Session, notes: Notes, handler: Handler
) -> None:
    add_flows(
        dbsession,
        second=NOON - minutes(7),
        fourth=NOON,
        first=NOON - minutes(90),
        third=NOON - minutes(2),
    )

    post(make_app(handler, **{"heartbeat.workers": "1"}))

    assert notes.names == ["first", "second", "third", "fourth"]


def test_p05_a_locked_row_is_skipped_and_not_waited_for(
    make_app: MakeApp, post: Post, dbsession: Session, notes: Notes, handler: Handler
) -> None:
    # SQLite locks no rows, only the database as a whole; the lease is what it waits for that.
    on_sqlite = dbsession.get_bind().dialect.name == "sqlite"
    wait = "1s" if on_sqlite else "20s"
    app = make_app(handler, **{"heartbeat.wait": wait, "heartbeat.lease": "10s"})
    post(app)
    settle()
    add_flows(dbsession, held=NOON - minutes(2), free=NOON - minutes(1))
    began = time.monotonic()

    if on_sqlite:
        begin_writing(dbsession)
        reply, ran_meanwhile = post(app, status=202).json, list(notes.names)
        expected_reply, expected_meanwhile = (0, 0), []
    else:
        dbsession.scalars(select(DataFlow).where(DataFlow.name == "held").with_for_update()).one()
        reply, ran_meanwhile = post(app).json, list(notes.names)
        expected_reply, expected_meanwhile = (1, 1), ["free"]
    answered_after = time.monotonic() - began
    dbsession.rollback()
    settle()
    post(app)
    settle()

    assert (reply["flows_triggered"], reply["flows_succeeded"]) == expected_reply
    assert ran_meanwhile == expected_meanwhile
    assert answered_after < 8
    assert sorted(notes.names) == ["free", "held"]


def test_p06_every_attempt_has_a_run_record(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    attempts = itertools.count()

    def works_every_other_time(_run: Run) -> None:
        if next(attempts) % 2:
            raise ValueError

    app = make_app(works_every_other_time)
    for _ in range(4):
        post(app)
        clock.advance(300)

    runs = all_runs(dbsession)
    assert [run.status for run in runs] == ["success", "failed", "success", "failed"]
    assert [run.scheduled_for for run in runs] == [NOON + n * minutes(5) for n in range(4)]


@pytest.mark.parametrize("status", ["skipped", "SUCCESS", "running", ""])
def test_p07_the_database_refuses_any_other_status(dbsession: Session, status: str) -> None:
    flow = data_flow()
    dbsession.add(data_flow_run(data_flow=flow))
    dbsession.commit()

    with pytest.raises(DBAPIError, match=r"(?i)check|constraint"):
        dbsession.execute(text("UPDATE data_flow_runs SET status = :status"), {"status": status})


@pytest.mark.parametrize("status", [*RunStatus])
def test_p07_the_database_takes_the_four_statuses(dbsession: Session, status: str) -> None:
    dbsession.add(data_flow_run(data_flow=data_flow()))
    dbsession.commit()

    dbsession.execute(text("UPDATE data_flow_runs SET status = :status"), {"status": str(status)})
    dbsession.commit()

    assert [run.status for run in all_runs(dbsession)] == [status]


MOVES: dict[str, Callable[[DataFlowRun], None]] = {
    "in_progress": lambda run: run.start(NOON),
    "success": lambda run: run.succeed(NOON),
    "failed": lambda run: run.fail(ValueError("lost"), NOON),
}
ALLOWED = [
    ("pending", "in_progress"),
    ("pending", "failed"),
    ("in_progress", "success"),
    ("in_progress", "failed"),
]


@pytest.mark.parametrize(("before", "after"), list(itertools.product([*RunStatus], MOVES)))
def test_p07_a_status_moves_only_as_allowed(before: str, after: str) -> None:
    run = data_flow_run(status=str(before))

    if (before, after) in ALLOWED:
        MOVES[after](run)

        assert run.status == after
    else:
        with pytest.raises(StatusError, match=f"is {before} and cannot become {after}"):
            MOVES[after](run)

        assert run.status == before


def test_p08_a_run_has_start_end_and_duration(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    def takes_12_seconds(_run: Run) -> None:
        clock.advance(12.5)

    post(make_app(takes_12_seconds))

    [run] = all_runs(dbsession)
    assert run.started_at == NOON
    assert run.ended_at == NOON + timedelta(seconds=12.5)
    assert run.duration == 12.5


def test_p08_a_failed_run_has_start_end_and_duration_too(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    def fails_after_12_seconds(_run: Run) -> None:
        clock.advance(12.5)
        raise ValueError

    post(make_app(fails_after_12_seconds))

    [run] = all_runs(dbsession)
    assert (run.started_at, run.ended_at) == (NOON, NOON + timedelta(seconds=12.5))
    assert run.duration == 12.5


def test_p09_a_failed_run_keeps_message_and_backtrace(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    def count_legs(_run: Run) -> None:
        message = "a heron with three legs"
        raise LookupError(message)

    post(make_app(count_legs))

    [run] = all_runs(dbsession)
    assert (run.status, run.error_type) == ("failed", "LookupError")
    assert run.error_message == "a heron with three legs"
    assert "in count_legs" in (run.error_backtrace or "")
    assert "raise LookupError(message)" in (run.error_backtrace or "")


def test_p09_a_run_that_succeeds_has_no_error(
    make_app: MakeApp, post: Post, dbsession: Session, notes: Notes
) -> None:
    post(make_app((notes, {"name": "fine"})))

    [run] = all_runs(dbsession)
    assert run.status == "success"
    assert (run.error_type, run.error_message, run.error_backtrace) == (None, None, None)


def test_p10_the_flow_keeps_time_and_status_of_its_last_run(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    broken = False

    def breaks(_run: Run) -> None:
        if broken:
            raise ValueError

    app = make_app(breaks)
    last = select(DataFlow.last_run_at, DataFlow.last_run_status, DataFlow.last_success_at)

    post(app)
    after_success = dbsession.execute(last).one()
    dbsession.rollback()
    broken = True
    clock.advance(300)
    post(app)
    after_failure = dbsession.execute(last).one()

    assert after_success == (NOON, "success", NOON)
    assert after_failure == (NOON + minutes(5), "failed", NOON)


def test_p11_the_database_refuses_a_second_flow_of_a_name(dbsession: Session) -> None:
    dbsession.add(data_flow(name="orders"))
    dbsession.commit()

    with pytest.raises(DBAPIError, match=r"(?i)unique|duplicate"):
        dbsession.execute(
            insert(DataFlow).values(name="orders", handler="another", run_interval=60)
        )


def test_p11_names_that_differ_in_case_alone_are_two(dbsession: Session) -> None:
    dbsession.add_all([data_flow(name="orders"), data_flow(name="Orders")])

    dbsession.commit()

    assert len(dbsession.scalars(select(DataFlow.id)).all()) == 2


@pytest.mark.parametrize("interval", [0, -1])
def test_p12_the_database_refuses_an_interval_that_is_not_above_zero(
    dbsession: Session, interval: int
) -> None:
    dbsession.add(data_flow())
    dbsession.commit()

    with pytest.raises(DBAPIError, match=r"(?i)check|constraint"):
        dbsession.execute(text("UPDATE data_flows SET run_interval = :i"), {"i": interval})


@both_entrances
@pytest.mark.parametrize("every", [0, -1, "0s", "-5m", timedelta(0), timedelta(seconds=-1)])
def test_p12_a_declared_interval_is_above_zero(
    make_app: MakeApp, notes: Notes, every: object
) -> None:
    with pytest.raises(DeclarationError, match="write whole seconds above zero"):
        make_app((notes, {"name": "never", "every": every}))


def test_p13_the_runs_go_with_their_flow(dbsession: Session) -> None:
    gone, stays = data_flow(name="gone"), data_flow(name="stays")
    dbsession.add_all([data_flow_run(data_flow=gone), data_flow_run(data_flow=stays)])
    dbsession.commit()

    dbsession.execute(text("DELETE FROM data_flows WHERE name = 'gone'"))
    dbsession.commit()

    assert [run.data_flow.name for run in all_runs(dbsession)] == ["stays"]


def test_p14_the_reply_counts_what_is_due_and_what_was_triggered(
    make_app: MakeApp, post: Post, dbsession: Session, handler: Handler
) -> None:
    add_flows(dbsession, one=NOON, two=NOON, three=NOON - minutes(90), ahead=NOON + minutes(2))

    reply = post(make_app(handler)).json

    assert (reply["flows_due"], reply["flows_triggered"]) == (3, 3)


def test_p14_the_reply_reports_that_nothing_is_due(make_app: MakeApp, post: Post) -> None:
    reply = post(make_app()).json

    assert (reply["flows_due"], reply["flows_triggered"]) == (0, 0)


def test_p15_a_failing_flow_does_not_stop_the_next(
    make_app: MakeApp, post: Post, dbsession: Session, handler: Handler
) -> None:
    def fail(_run: Run) -> None:
        raise SystemExit(3)

    dbsession.add(data_flow(name="first", handler="fail", next_run_at=NOON - minutes(9)))
    add_flows(dbsession, next=NOON)
    app = make_app(handler, (fail, {"start": "next"}), **{"heartbeat.workers": "1"})

    reply = post(app).json

    assert [(run.data_flow.name, run.status) for run in all_runs(dbsession)] == [
        ("first", "failed"),
        ("next", "success"),
    ]
    assert (reply["flows_succeeded"], reply["flows_failed"]) == (1, 1)


def test_p16_a_row_whose_handler_is_not_registered_is_never_claimed(
    make_app: MakeApp, post: Post, dbsession: Session, notes: Notes, handler: Handler
) -> None:
    dbsession.add(data_flow(name="stray", handler="os.system", next_run_at=NOON - minutes(90)))
    add_flows(dbsession, fine=NOON)

    # One worker: a row that cannot run must not take the place of one that can.
    reply = post(make_app(handler, **{"heartbeat.workers": "1"})).json

    assert (reply["flows_due"], reply["flows_triggered"]) == (1, 1)
    assert notes.names == ["fine"]
    assert [run.data_flow.name for run in all_runs(dbsession)] == ["fine"]


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"X-Heartbeat-Token": "wrong"}],
    ids=["none", "bearer", "own header"],
)
def test_p17_nothing_runs_and_nothing_is_written_without_authorisation(
    make_app: MakeApp, dbsession: Session, notes: Notes, headers: dict[str, str]
) -> None:
    app = make_app((notes, {"name": "declared"}))

    app.post("/heartbeat", headers=headers, status=401)
    settle()

    assert notes.names == []
    for model in (DataFlow, DataFlowRun, DataFlowBeat):
        assert dbsession.scalars(select(model.id)).all() == []


def test_p18_authentication_can_be_switched_off(make_app: MakeApp, notes: Notes) -> None:
    app = make_app((notes, {"name": "open"}), **{"heartbeat.require_token": "false"})

    app.post("/heartbeat", status=200)

    assert notes.names == ["open"]


def test_p19_the_path_can_be_changed(make_app: MakeApp, notes: Notes) -> None:
    app = make_app((notes, {"name": "moved"}), **{"heartbeat.path": "/ops/pulse"})
    headers = {"X-Heartbeat-Token": TOKEN}

    app.post("/heartbeat", headers=headers, status=404)
    app.post("/ops/pulse", headers=headers, status=200)

    assert notes.names == ["moved"]
