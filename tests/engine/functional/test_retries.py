"""Retries and pauses: what follows a failure."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, text, update
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlow, DataFlowRun
from data_flows.heartbeat.optional.operate.why import describe
from data_flows.heartbeat.runs.claim import claim
from data_flows.heartbeat.runs.execute import execute
from data_flows.heartbeat.runs.register import register
from data_flows.heartbeat.runs.request import claim_by_hand

from ..conftest import FakeClock, MakeApp, heartbeat_of
from ..factories import NOON, data_flow

Post = Callable[..., Any]

MINUTE = timedelta(minutes=1)


class Flow:
    """A flow that fails a given number of times."""

    __name__ = "flow"

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures

    def __call__(self, _run: Run) -> None:
        """Fail, or not any more."""
        if self.failures:
            self.failures -= 1
            raise ValueError("not yet")


def rows(app: TestApp) -> list[DataFlowRun]:
    with heartbeat_of(app).session() as session:
        return list(session.scalars(select(DataFlowRun).order_by(DataFlowRun.id)))


def attempts(app: TestApp) -> list[tuple[datetime | None, int, str, str]]:
    return [(run.scheduled_for, run.attempt, run.trigger, run.status) for run in rows(app)]


def flow_of(app: TestApp) -> DataFlow:
    with heartbeat_of(app).session() as session:
        return session.scalars(select(DataFlow)).one()


def beat_every_minute(app: TestApp, post: Post, clock: FakeClock, minutes: int) -> list[datetime]:
    """Beat for so many minutes; return when each run started."""
    for _ in range(minutes):
        post(app)
        clock.advance(60)
    return [run.started_at for run in rows(app) if run.started_at]


def run_by_hand(app: TestApp) -> None:
    heartbeat = heartbeat_of(app)
    with heartbeat.session() as session:
        claimed = claim_by_hand(session, heartbeat, "flow")
    execute(heartbeat, claimed)


def test_each_next_attempt_is_a_run_of_its_own_for_the_same_slot_and_window(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app((Flow(2), {"every": "1h", "retries": 3}))

    beat_every_minute(app, post, clock, 10)

    assert attempts(app) == [
        (NOON, 1, "schedule", "failed"),
        (NOON, 2, "retry", "failed"),
        (NOON, 3, "retry", "success"),
    ]
    assert {(run.window_start, run.window_end) for run in rows(app)} == {(NOON - 60 * MINUTE, NOON)}


def test_the_delay_doubles_with_each_attempt_up_to_an_hour(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app((Flow(5), {"every": "1d", "retries": 4, "retry_delay": "20m"}))

    started = beat_every_minute(app, post, clock, 250)

    minutes = [(moment - NOON) // MINUTE for moment in started]
    assert minutes == [0, 20, 60, 120, 180]


def test_the_last_attempt_that_fails_is_final_for_its_slot_and_the_grid_stays(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app((Flow(2), {"every": "10m", "retries": 1}))

    beat_every_minute(app, post, clock, 21)

    assert attempts(app) == [
        (NOON, 1, "schedule", "failed"),
        (NOON, 2, "retry", "failed"),
        (NOON + 10 * MINUTE, 1, "schedule", "success"),
        (NOON + 20 * MINUTE, 1, "schedule", "success"),
    ]
    assert {run.missed_slots for run in rows(app)} == {0}


def test_while_a_retry_waits_newer_slots_wait_and_are_counted(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app((Flow(1), {"every": "5m", "retries": 1, "retry_delay": "12m"}))

    beat_every_minute(app, post, clock, 13)

    assert [(run.scheduled_for, run.missed_slots) for run in rows(app)] == [
        (NOON, 0),
        (NOON, 0),
        (NOON + 10 * MINUTE, 1),
    ]


def test_a_flow_without_retries_has_no_next_attempt(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app((Flow(1), {"every": "1h"}))

    beat_every_minute(app, post, clock, 3)

    assert attempts(app) == [(NOON, 1, "schedule", "failed")]


def test_a_run_by_hand_is_not_tried_again(make_app: MakeApp, post: Post, clock: FakeClock) -> None:
    app = make_app((Flow(1), {"every": "1h", "start": "next", "retries": 3}))
    post(app)

    run_by_hand(app)
    beat_every_minute(app, post, clock, 5)

    assert [run.status for run in rows(app)] == ["failed"]


def test_run_now_starts_the_attempt_that_waits(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app((Flow(1), {"every": "1h", "retries": 1, "retry_delay": "30m"}))
    post(app)
    clock.advance(60)

    run_by_hand(app)

    assert attempts(app) == [(NOON, 1, "schedule", "failed"), (NOON, 2, "retry", "success")]
    assert rows(app)[1].started_at == NOON + MINUTE


def test_a_flow_that_was_disabled_meanwhile_has_no_next_attempt(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    def flow(_run: Run) -> None:
        dbsession.execute(update(DataFlow).values(enabled=False))
        dbsession.commit()
        raise ValueError

    app = make_app((flow, {"every": "1h", "retries": 3}))

    beat_every_minute(app, post, clock, 3)

    assert attempts(app) == [(NOON, 1, "schedule", "failed")]


def test_so_many_failures_in_a_row_disable_the_flow_with_the_reason(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app((Flow(9), {"every": "5m", "pause_after": 3}))

    beat_every_minute(app, post, clock, 30)

    flow = flow_of(app)
    assert [run.status for run in rows(app)] == ["failed"] * 3
    assert (flow.enabled, flow.failures_in_a_row) == (False, 3)
    last = rows(app)[-1].id
    assert flow.disabled_reason == f"paused after 3 failures in a row, the last of them run {last}"


def test_a_success_resets_the_count_of_failures(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    flow = Flow(2)
    app = make_app((flow, {"every": "5m", "pause_after": 3}))

    beat_every_minute(app, post, clock, 11)
    flow.failures = 2
    beat_every_minute(app, post, clock, 14)

    assert [run.status for run in rows(app)] == ["failed"] * 2 + ["success"] + ["failed"] * 2
    assert flow_of(app).enabled


@pytest.mark.parametrize("also", [{}, {"failures_in_a_row": 0}])
def test_a_flow_that_is_enabled_again_may_fail_as_often_as_before(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session, also: dict[str, Any]
) -> None:
    app = make_app((Flow(99), {"every": "5m", "pause_after": 3}))
    beat_every_minute(app, post, clock, 30)

    dbsession.execute(update(DataFlow).values(enabled=True, **also))
    dbsession.commit()
    beat_every_minute(app, post, clock, 30)

    assert len(rows(app)) == 6


def test_a_paused_flow_makes_no_next_attempt(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app((Flow(9), {"every": "1h", "retries": 5, "pause_after": 2}))

    beat_every_minute(app, post, clock, 20)

    assert [(run.attempt, run.status) for run in rows(app)] == [(1, "failed"), (2, "failed")]
    assert not flow_of(app).enabled


# ---------------------------------------------------------------------------------------------
# Options are kept with the flow's row

OPTIONS = {"retries": 2, "retry_delay": "5m", "on_lost": "retry", "pause_after": 7}
COLUMNS = ("on_lost", "retries", "retry_delay", "pause_after")


def options(app: TestApp, name: str = "flow") -> tuple[object, ...]:
    """Return the options that the row of a flow has."""
    heartbeat = heartbeat_of(app)
    with heartbeat.session() as session:
        row = session.scalars(select(DataFlow).filter_by(name=name)).one()
        return tuple(getattr(row, column) for column in COLUMNS)


def test_a_new_row_has_the_options_of_its_flow(make_app: MakeApp, post: Post) -> None:
    app = make_app((Flow(), OPTIONS))

    post(app)

    assert options(app) == ("retry", 2, 300, 7)


def test_many_rows_follow_their_options_batch_by_batch(
    make_app: MakeApp, post: Post, dbsession: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app((Flow(), OPTIONS))
    post(app)
    names = [f"flow {number}" for number in range(5)]
    dbsession.add_all([data_flow(name=name, handler="flow") for name in names])
    dbsession.commit()
    monkeypatch.setattr("data_flows.heartbeat.runs.register.BATCH", 2)
    heartbeat, updates = heartbeat_of(app), list[int]()
    heartbeat.registered.clear()

    def count(_connection: object, cursor: Any, text: str, *_ignored: object) -> None:
        if text.startswith("UPDATE"):
            updates.append(cursor.rowcount)

    event.listen(heartbeat.engine, "after_cursor_execute", count)
    register(heartbeat)

    assert {options(app, name) for name in names} == {("retry", 2, 300, 7)}
    assert updates == [2, 2, 1]


def test_a_row_follows_options_that_change_in_the_code(make_app: MakeApp, post: Post) -> None:
    post(make_app((Flow(), OPTIONS)))

    app = make_app((Flow(), {"retries": 1}))
    post(app)

    assert options(app) == ("fail", 1, 60, None)


@pytest.mark.parametrize("column", COLUMNS)
def test_any_option_that_changes_is_followed_in_all_rows_of_the_handler(
    make_app: MakeApp, post: Post, dbsession: Session, column: str
) -> None:
    post(make_app((Flow(), {})))
    dbsession.add(data_flow(name="another", handler="flow", enabled=False))
    dbsession.commit()

    app = make_app((Flow(), {column: OPTIONS[column]}))
    post(app)

    index, value = COLUMNS.index(column), ("retry", 2, 300, 7)[COLUMNS.index(column)]
    assert [options(app, name)[index] for name in ("flow", "another")] == [value, value]


def test_a_row_is_written_only_where_an_option_has_changed(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    post(make_app((Flow(), {**OPTIONS, "start": "next"})))
    clock.advance(60)

    app = make_app((Flow(), {**OPTIONS, "start": "next"}))
    post(app)

    assert flow_of(app).updated_at == NOON


def test_options_larger_than_a_column_are_stored_as_the_largest(
    make_app: MakeApp, post: Post
) -> None:
    app = make_app((Flow(), {"retries": 10**12, "pause_after": 10**12}))

    post(app)

    assert options(app) == ("fail", 2**31 - 1, 60, 2**31 - 1)


def lose(app: TestApp, dbsession: Session, clock: FakeClock) -> None:
    """Claim a run that is not executed, and wait until its lease has expired."""
    heartbeat = heartbeat_of(app)
    register(heartbeat)
    with heartbeat.session() as session:
        assert len(claim(session, heartbeat, 1)) == 1
    clock.advance(600)
    dbsession.rollback()


def test_a_process_that_lacks_the_handler_follows_on_lost(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    lose(make_app((Flow(), {"on_lost": "retry", "every": "1d"})), dbsession, clock)

    app = make_app()
    assert post(app).json["runs_reaped"] == 1

    assert attempts(app) == [(NOON, 1, "schedule", "failed"), (NOON, 2, "retry", "pending")]


def test_the_row_holds_where_a_process_knows_other_options(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    old = make_app((Flow(), {"every": "1d"}))
    post(old)
    new = make_app((Flow(), {"every": "1d", "on_lost": "retry"}))
    post(new)
    clock.advance(86_400)
    heartbeat = heartbeat_of(new)
    with heartbeat.session() as session:
        assert len(claim(session, heartbeat, 1)) == 1
    clock.advance(600)

    post(old)

    assert [run.attempt for run in rows(old)] == [1, 1, 2]


def test_a_row_without_recorded_options_follows_the_code(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    app = make_app((Flow(1), OPTIONS))
    register(heartbeat_of(app))
    # As a process of an older engine makes a row.
    dbsession.execute(update(DataFlow).values(dict.fromkeys(COLUMNS)))
    dbsession.commit()

    post(app)

    assert [attempt[1] for attempt in attempts(app)] == [1, 2]


@pytest.mark.parametrize("known", [True, False])
def test_a_row_with_options_that_cannot_be_read_keeps_no_failure_from_its_record(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session, *, known: bool
) -> None:
    app = make_app((Flow(), {**OPTIONS, "every": "1d"}))
    lose(app, dbsession, clock)
    broken = "'x'" if dbsession.get_bind().dialect.name == "sqlite" else "NULL"
    dbsession.execute(text(f"UPDATE data_flows SET retries = {broken}, pause_after = {broken}"))  # noqa: S608
    dbsession.commit()

    app = app if known else make_app()
    assert post(app).json["runs_reaped"] == 1

    # The declared options, where the handler is known.
    assert [run.attempt for run in rows(app)] == ([1, 2] if known else [1])


def test_why_counts_the_retries_that_the_row_has(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    app = make_app((Flow(1), OPTIONS))
    post(app)
    dbsession.execute(update(DataFlow).values(retries=9))
    dbsession.commit()

    heartbeat = heartbeat_of(app)
    with heartbeat.session() as session:
        [flow] = describe(heartbeat, session)

    assert "Retry 1 of 9 waits until" in flow.why
