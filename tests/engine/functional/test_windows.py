"""The span of time that a run is about: windows of successful runs meet, whatever failed."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlowRun
from data_flows.heartbeat.runs.execute import execute
from data_flows.heartbeat.runs.request import claim_by_hand

from ..conftest import FakeClock, MakeApp, heartbeat_of

Post = Callable[..., Any]

FIRST = datetime(2026, 3, 1, 12, tzinfo=UTC)  # what FakeClock shows at first


class Flow:
    """A flow that records its windows, and fails while `fails` is set."""

    __name__ = "keep"

    def __init__(self) -> None:
        self.fails = False
        self.seen: list[tuple[datetime, datetime]] = []

    def __call__(self, run: Run) -> None:
        """Keep the run's window."""
        self.seen.append((run.window.start, run.window.end))
        if self.fails:
            raise ValueError

    def minutes(self) -> list[tuple[float, float]]:
        """Return the windows seen, as minutes since FIRST."""
        minute = timedelta(minutes=1)
        return [((start - FIRST) / minute, (end - FIRST) / minute) for start, end in self.seen]


@pytest.fixture
def flow() -> Flow:
    return Flow()


def run_by_hand(app: TestApp) -> None:
    heartbeat = heartbeat_of(app)
    with heartbeat.session() as session:
        claimed = claim_by_hand(session, heartbeat, "keep")
    execute(heartbeat, claimed)


def test_the_first_window_is_one_interval_before_the_slot(
    make_app: MakeApp, post: Post, flow: Flow
) -> None:
    app = make_app(flow)

    post(app)

    assert flow.minutes() == [(-5, 0)]


def test_a_window_begins_where_the_last_one_ended(
    make_app: MakeApp, post: Post, clock: FakeClock, flow: Flow
) -> None:
    app = make_app(flow)

    for _ in range(3):
        post(app)
        clock.advance(300)

    assert flow.minutes() == [(-5, 0), (0, 5), (5, 10)]


def test_a_late_beat_works_up_to_the_slot_and_not_beyond(
    make_app: MakeApp, post: Post, clock: FakeClock, flow: Flow
) -> None:
    app = make_app(flow)

    post(app)
    clock.advance(60 * 8)
    post(app)

    assert flow.minutes() == [(-5, 0), (0, 5)]


def test_a_window_covers_what_failed_before(
    make_app: MakeApp, post: Post, clock: FakeClock, flow: Flow
) -> None:
    app = make_app(flow)

    post(app)
    flow.fails = True
    for _ in range(2):
        clock.advance(300)
        post(app)
    flow.fails = False
    clock.advance(300)
    post(app)

    assert flow.minutes() == [(-5, 0), (0, 5), (0, 10), (0, 15)]


def test_a_first_run_that_fails_leaves_its_window_to_the_next(
    make_app: MakeApp, post: Post, clock: FakeClock, flow: Flow
) -> None:
    app = make_app(flow)

    flow.fails = True
    post(app)
    flow.fails = False
    clock.advance(300)
    post(app)

    assert flow.minutes() == [(-5, 0), (-5, 5)]


def test_after_downtime_one_window_covers_the_gap(
    make_app: MakeApp, post: Post, clock: FakeClock, flow: Flow
) -> None:
    app = make_app(flow)

    post(app)
    clock.advance(60 * 60 * 7 + 120)
    post(app)

    assert flow.minutes() == [(-5, 0), (0, 420)]


def test_the_window_of_a_slot_that_was_waited_for_ends_at_the_slot(
    make_app: MakeApp, post: Post, clock: FakeClock, flow: Flow
) -> None:
    app = make_app(flow)

    post(app)
    clock.advance(60 * 4.75)
    post(app)
    clock.advance(60 * 5)
    post(app)

    assert flow.minutes() == [(-5, 0), (0, 5), (5, 10)]


def test_a_manual_run_works_up_to_now_and_advances_the_window(
    make_app: MakeApp, post: Post, clock: FakeClock, flow: Flow
) -> None:
    app = make_app(flow)

    post(app)
    clock.advance(60 * 2)
    run_by_hand(app)
    clock.advance(60 * 3)
    post(app)

    assert flow.minutes() == [(-5, 0), (0, 2), (2, 5)]


def test_a_manual_run_of_a_flow_that_never_ran_gets_one_interval(
    make_app: MakeApp, post: Post, clock: FakeClock, flow: Flow
) -> None:
    app = make_app((flow, {"start": "next"}))
    post(app)

    clock.advance(60)
    run_by_hand(app)

    assert flow.minutes() == [(-4, 1)]


def test_a_failed_manual_run_advances_nothing(
    make_app: MakeApp, post: Post, clock: FakeClock, flow: Flow
) -> None:
    app = make_app(flow)

    post(app)
    clock.advance(60 * 2)
    flow.fails = True
    run_by_hand(app)
    flow.fails = False
    clock.advance(60 * 3)
    post(app)

    assert flow.minutes() == [(-5, 0), (0, 2), (0, 5)]


def test_a_first_slot_that_was_waited_for_has_an_interval_before_it(
    make_app: MakeApp, post: Post, clock: FakeClock, flow: Flow
) -> None:
    clock.leap(-15)
    post(make_app((flow, {"every": "5m", "between": "12:00-13:00"})))

    assert flow.minutes() == [(-5, 0)]


def test_a_slot_before_the_end_of_the_last_window_gets_an_empty_one(
    make_app: MakeApp, post: Post, clock: FakeClock, flow: Flow
) -> None:
    app = make_app(flow)

    post(app)
    clock.advance(60 * 6)
    run_by_hand(app)
    post(app)  # the slot of minute 5, after a manual run up to minute 6
    clock.advance(60 * 4)
    post(app)

    assert flow.minutes() == [(-5, 0), (0, 6), (6, 6), (6, 10)]


def test_after_a_leap_of_the_clock_back_no_window_ends_before_it_starts(
    make_app: MakeApp, post: Post, clock: FakeClock, flow: Flow
) -> None:
    app = make_app(flow)

    post(app)
    clock.leap(-3_600)
    run_by_hand(app)
    clock.leap(3_600)
    clock.advance(300)
    post(app)

    assert flow.minutes() == [(-5, 0), (0, 0), (0, 5)]


def test_both_ends_of_a_window_are_stored_with_the_run(
    make_app: MakeApp, post: Post, clock: FakeClock, flow: Flow, dbsession: Session
) -> None:
    app = make_app(flow)

    clock.advance(0.123456)
    post(app)
    flow.fails = True
    clock.advance(299.654321)
    post(app)

    rows = dbsession.execute(
        select(DataFlowRun.window_start, DataFlowRun.window_end).order_by(DataFlowRun.id)
    )
    assert [tuple(row) for row in rows] == flow.seen


@pytest.mark.parametrize("seed", range(5))
def test_windows_of_successful_runs_meet_whatever_failed_between(
    make_app: MakeApp, post: Post, clock: FakeClock, flow: Flow, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - a simulation, and the seed repeats it
    app = make_app(flow)

    post(app)
    for _ in range(40):
        clock.advance(chance.choice([60, 275, 300, 301.5, 1_000]))
        flow.fails = chance.random() < 0.4
        if chance.random() < 0.2:
            run_by_hand(app)
        else:
            post(app)

    with heartbeat_of(app).session() as session:
        windows = session.execute(
            select(DataFlowRun.window_start, DataFlowRun.window_end)
            .filter_by(status="success")
            .order_by(DataFlowRun.id)
        ).all()
    assert len(windows) > 10
    assert windows[0].window_start == FIRST - timedelta(minutes=5)
    for earlier, later in pairwise(windows):
        assert later.window_start == earlier.window_end
        assert later.window_end >= later.window_start
