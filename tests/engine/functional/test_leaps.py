"""What happens when the wall clock is set: nothing runs twice, nothing falls silent."""

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlow, DataFlowRun
from data_flows.heartbeat.runs.claim import claim
from data_flows.heartbeat.runs.lease import renew
from data_flows.heartbeat.runs.register import register

from ..conftest import FakeClock, MakeApp, heartbeat_of

Post = Callable[..., Any]

HOUR = 3_600
INTERVAL = 300
LEASE = {"heartbeat.lease": "5m"}


def tick(_run: Run) -> None:
    """Do nothing, every five minutes."""


@pytest.fixture
def app(make_app: MakeApp) -> TestApp:
    """Make an application whose only flow is due every five minutes."""
    return make_app(tick, **LEASE)


def all_runs(dbsession: Session) -> list[DataFlowRun]:
    dbsession.rollback()
    return list(dbsession.scalars(select(DataFlowRun).order_by(DataFlowRun.id)))


def slots(dbsession: Session) -> list[datetime | None]:
    return [run.scheduled_for for run in all_runs(dbsession)]


def beats(app: TestApp, post: Post, clock: FakeClock, count: int) -> None:
    """Beat so many times, an interval apart."""
    for _ in range(count):
        post(app)
        clock.advance(INTERVAL)


@pytest.mark.parametrize("back", [HOUR, HOUR + 17, 86_400])
def test_after_a_leap_back_a_flow_goes_on_at_once_and_repeats_no_slot(
    app: TestApp, post: Post, clock: FakeClock, dbsession: Session, back: int
) -> None:
    beats(app, post, clock, 5)

    clock.leap(-back)
    leapt = clock.now()
    beats(app, post, clock, 20)

    before, after = slots(dbsession)[:5], slots(dbsession)[5:]
    assert len(after) == 20
    assert set(after).isdisjoint(before)
    assert after[0] is not None
    assert timedelta(0) <= after[0] - leapt <= timedelta(milliseconds=1)
    steps = {later - slot for slot, later in pairwise(after) if slot and later}
    assert steps == {timedelta(seconds=INTERVAL)}
    assert {(run.status, run.missed_slots) for run in all_runs(dbsession)} == {("success", 0)}


def test_after_a_leap_back_windows_stay_empty_until_the_clock_has_caught_up(
    app: TestApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    beats(app, post, clock, 3)
    until = all_runs(dbsession)[-1].window_end

    clock.leap(-HOUR)
    beats(app, post, clock, 14)

    windows = [(run.window_start, run.window_end) for run in all_runs(dbsession)[3:]]
    empty = [window for window in windows if window[0] == window[1]]
    assert set(empty) == {(until, until)}
    full = windows[len(empty) :]
    assert full
    assert full[0][0] == until
    assert all(start and end and start < end for start, end in full)


def test_a_small_step_back_restarts_no_grid(
    app: TestApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    post(app)
    clock.leap(-10)  # two machines whose clocks differ look like that
    post(app)
    clock.advance(INTERVAL + 10)
    post(app)

    first, second = slots(dbsession)
    assert first is not None
    assert second == first + timedelta(seconds=INTERVAL)


def test_a_slot_that_was_put_off_stays_put_off(
    app: TestApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    post(app)
    clock.advance(INTERVAL)
    dbsession.execute(update(DataFlow).values(next_run_at=clock.now() + timedelta(days=1)))
    dbsession.commit()

    assert post(app).json["flows_due"] == 0


def test_after_a_leap_ahead_the_latest_slot_runs_and_the_others_are_counted(
    app: TestApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    beats(app, post, clock, 2)
    clock.leap(HOUR)
    beats(app, post, clock, 2)

    assert [run.missed_slots for run in all_runs(dbsession)] == [0, 0, 12, 0]


def test_a_living_run_survives_a_leap_ahead(
    app: TestApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    heartbeat = heartbeat_of(app)
    register(heartbeat)
    [run] = heartbeat.transact(lambda session: claim(session, heartbeat, 1))
    with heartbeat.executor.working_here(run):
        clock.leap(HOUR)
        # As the keeper does within half a second; its process need not be the one that beats.
        left = renew(heartbeat, [run])
        reply = post(app).json

    assert (left, reply["runs_reaped"]) == (0, 0)
    assert all_runs(dbsession)[0].status == "in_progress"


@pytest.mark.parametrize(("skew", "reaped"), [(149, 0), (-149, 0), (301, 1)])
def test_the_clock_of_another_machine_reaps_no_living_run_within_half_a_lease(
    app: TestApp, post: Post, clock: FakeClock, skew: int, reaped: int
) -> None:
    heartbeat = heartbeat_of(app)
    register(heartbeat)
    heartbeat.transact(lambda session: claim(session, heartbeat, 1))

    # A third of the lease has passed: the latest moment at which its process renews it.
    clock.advance(100)
    clock.leap(skew)

    assert post(app).json["runs_reaped"] == reaped
