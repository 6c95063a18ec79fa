"""When a flow of `every` runs: its grid, with late and missing beats, and over a day.

The grid begins with the first claim, and nothing but a changed interval moves it after that.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlow, DataFlowRun
from data_flows.heartbeat.runs.execute import execute
from data_flows.heartbeat.runs.request import claim_by_hand
from data_flows.heartbeat.schedules.every import latest_due
from data_flows.heartbeat.schedules.rule import Rule, rescheduled

from ..conftest import FakeClock, MakeApp, heartbeat_of

Post = Callable[..., Any]

FIRST = datetime(2026, 3, 1, 12, tzinfo=UTC)  # what FakeClock shows at first
SEEDS = 200
BEATS_A_DAY = 288


def tick(_run: Run) -> None:
    """Do nothing, every five minutes."""


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def slots(app: TestApp) -> list[tuple[timedelta | None, int]]:
    """Return each run's slot as the time since FIRST, with its missed slots, oldest first."""
    with heartbeat_of(app).session() as session:
        runs = session.scalars(select(DataFlowRun).order_by(DataFlowRun.id))
        return [
            (run.scheduled_for - FIRST if run.scheduled_for else None, run.missed_slots)
            for run in runs
        ]


def run_by_hand(app: TestApp, name: str) -> None:
    heartbeat = heartbeat_of(app)
    with heartbeat.session() as session:
        claimed = claim_by_hand(session, heartbeat, name)
    execute(heartbeat, claimed)


# ---------------------------------------------------------------------------------------------
# The grid


def test_the_first_slot_is_the_moment_of_the_first_claim(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app(tick)

    post(app)
    clock.advance(300)
    post(app)

    assert slots(app) == [(minutes(0), 0), (minutes(5), 0)]


def test_the_grid_begins_with_the_claim_and_not_with_the_registration(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app((tick, {"start": "next"}))

    post(app)
    clock.advance(417)
    post(app)
    clock.advance(300)
    post(app)

    assert slots(app) == [(timedelta(seconds=417), 0), (timedelta(seconds=717), 0)]


def test_a_new_flow_that_starts_next_waits_for_one_interval(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app((tick, {"start": "next"}))

    assert post(app).json["flows_due"] == 0
    clock.advance(269)
    assert post(app).json["flows_due"] == 0
    clock.advance(31)
    assert post(app).json["flows_triggered"] == 1

    assert slots(app) == [(minutes(5), 0)]


def test_a_late_beat_does_not_move_the_grid(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app(tick)

    post(app)
    clock.advance(300 + 137)
    post(app)
    clock.advance(300 - 137)
    post(app)

    assert slots(app) == [(minutes(0), 0), (minutes(5), 0), (minutes(10), 0)]


def test_a_run_that_takes_longer_than_a_beat_apart_does_not_move_the_grid(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    def long(_run: Run) -> None:
        clock.advance(200)

    app = make_app(long, **{"heartbeat.wait": "10m"})

    post(app)
    clock.advance(100)
    post(app)
    clock.advance(100)
    post(app)

    assert slots(app) == [(minutes(0), 0), (minutes(5), 0), (minutes(10), 0)]


def test_a_run_that_takes_longer_than_the_interval_skips_what_passed_and_counts_it(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    lengths = iter([700, 0])

    def long(_run: Run) -> None:
        clock.advance(next(lengths))

    app = make_app(long, **{"heartbeat.wait": "1h"})

    post(app)

    assert slots(app) == [(minutes(0), 0), (minutes(10), 1)]


def test_a_restart_does_not_move_the_grid(make_app: MakeApp, post: Post, clock: FakeClock) -> None:
    post(make_app(tick))
    clock.advance(300 + 61)
    post(make_app(tick))
    clock.advance(300 - 61)
    app = make_app(tick)
    post(app)

    assert slots(app) == [(minutes(0), 0), (minutes(5), 0), (minutes(10), 0)]


def test_a_failing_flow_keeps_its_grid(make_app: MakeApp, post: Post, clock: FakeClock) -> None:
    def fail(_run: Run) -> None:
        raise ValueError

    app = make_app(fail)

    post(app)
    clock.advance(300)
    post(app)

    assert slots(app) == [(minutes(0), 0), (minutes(5), 0)]


def test_of_several_passed_slots_the_latest_runs_and_the_others_are_counted(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app(tick)

    post(app)
    clock.advance(60 * 23)
    reply = post(app).json

    assert reply["flows_due"] == reply["flows_triggered"] == 1
    assert slots(app) == [(minutes(0), 0), (minutes(20), 3)]


def test_after_catching_up_the_next_slot_lies_on_the_old_grid(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app(tick)

    post(app)
    clock.advance(60 * 23)
    post(app)
    clock.advance(60 * 2)
    post(app)

    assert slots(app)[-1] == (minutes(25), 0)


def test_a_slot_runs_once_however_often_it_is_beaten(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app(tick)

    for _ in range(12):
        post(app)
        clock.advance(60)

    assert slots(app) == [(minutes(0), 0), (minutes(5), 0), (minutes(10), 0)]


# ---------------------------------------------------------------------------------------------
# What else touches a flow


def test_a_changed_interval_counts_from_the_last_slot(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    post(make_app((tick, {"every": "5m"})))
    clock.advance(120)

    app = make_app((tick, {"every": "7m"}))
    post(app)
    clock.advance(300)
    post(app)

    assert slots(app) == [(minutes(0), 0), (minutes(7), 0)]


def test_a_shortened_interval_whose_slot_has_passed_is_due_at_once(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    post(make_app((tick, {"every": "1h"})))
    clock.advance(60 * 17)

    app = make_app((tick, {"every": "5m"}))
    post(app)
    clock.advance(300)
    post(app)

    assert slots(app) == [(minutes(0), 0), (minutes(17), 0), (minutes(22), 0)]


@pytest.mark.parametrize(
    ("last_slot", "interval", "expected"),
    [
        (FIRST, 900, FIRST + minutes(15)),
        (FIRST, 600, FIRST + minutes(10)),
        (FIRST, 60, FIRST + minutes(10)),
        (None, 900, FIRST + minutes(10)),
    ],
)
def test_the_slot_after_a_change_is_one_interval_after_the_last_or_now(
    last_slot: datetime | None, interval: int, expected: datetime
) -> None:
    assert rescheduled(Rule(interval), last_slot, FIRST + minutes(10)) == expected


def test_a_manual_run_moves_nothing(make_app: MakeApp, post: Post, clock: FakeClock) -> None:
    app = make_app(tick)
    post(app)

    clock.advance(120)
    run_by_hand(app, "tick")
    clock.advance(180)
    post(app)

    assert slots(app) == [(minutes(0), 0), (None, 0), (minutes(5), 0)]


def test_a_manual_run_before_the_first_claim_sets_no_grid(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app((tick, {"start": "next"}))
    post(app)

    clock.advance(120)
    run_by_hand(app, "tick")
    clock.advance(240)
    post(app)

    assert slots(app) == [(None, 0), (minutes(6), 0)]


def test_a_slot_that_has_its_run_already_is_passed_over_and_stops_no_other_flow(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    def other(_run: Run) -> None:
        pass

    app = make_app(tick, other)
    post(app)
    flow = dbsession.scalars(select(DataFlow).filter_by(name="tick")).one()
    taken = DataFlowRun(data_flow_id=flow.id, status="failed", scheduled_for=flow.next_run_at)
    dbsession.add(taken)
    dbsession.commit()

    clock.advance(300)
    reply = post(app).json
    clock.advance(300)
    post(app)

    assert reply["flows_triggered"] == reply["flows_succeeded"] == 1
    dbsession.rollback()
    runs = dbsession.scalars(
        select(DataFlowRun).filter_by(data_flow_id=flow.id).order_by(DataFlowRun.id)
    )
    assert [
        (run.scheduled_for and run.scheduled_for - FIRST, run.status, run.missed_slots)
        for run in runs
    ] == [
        (minutes(0), "success", 0),
        (minutes(5), "failed", 0),
        (minutes(10), "success", 0),
    ]


# ---------------------------------------------------------------------------------------------
# A day: a beat every 300 seconds, up to 5 seconds early or late; runs of 0 to 20 seconds


def beats_of_a_day(seed: int) -> Iterator[tuple[datetime, float]]:
    """Yield when each beat of a day comes, and how long the run that it starts will take."""
    chance = random.Random(seed)  # noqa: S311 - a simulation, and the seed repeats it
    phase = chance.uniform(0, 86_400)
    for number in range(BEATS_A_DAY):
        seconds = phase + 300 * number + chance.uniform(-5, 5)
        yield FIRST + timedelta(seconds=seconds), chance.uniform(0, 20)


def expected_slots(seed: int) -> list[datetime]:
    first, _ = next(beats_of_a_day(seed))
    return [first + minutes(5) * number for number in range(BEATS_A_DAY)]


def test_a_day_of_the_schedule_runs_each_slot_once_from_any_phase() -> None:
    for seed in range(SEEDS):
        ran: Counter[datetime | None] = Counter()
        missed = 0
        ahead = FIRST
        for number, (now, _length) in enumerate(beats_of_a_day(seed)):
            # A beat that comes early waits for its slot, and the row keeps the next one.
            claimed = max(now, ahead) if number else now
            due = latest_due(ahead if number else now, 300, claimed)
            ahead = due.next_slot
            ran[due.slot] += 1
            missed += due.missed_slots

        assert ran == Counter[datetime | None](expected_slots(seed)), f"seed {seed}"
        assert missed == 0, f"seed {seed}"


def live_a_day(seed: int, make_app: MakeApp, post: Post, clock: FakeClock) -> None:
    """Beat an application through a day of `seed`, and judge by the rows what ran."""
    lengths: list[float] = []

    def work(_run: Run) -> None:
        clock.advance(lengths.pop())

    app = make_app(work)

    for now, length in beats_of_a_day(seed):
        clock.time = now
        lengths[:] = [length]
        post(app, Prefer="wait=60")

    with heartbeat_of(app).session() as session:
        rows = session.scalars(select(DataFlowRun)).all()
        early = select(DataFlowRun.id).where(DataFlowRun.started_at < DataFlowRun.scheduled_for)
        assert session.scalars(early).all() == [], f"seed {seed}"
    assert Counter(row.scheduled_for for row in rows) == Counter(expected_slots(seed)), (
        f"seed {seed}"
    )
    assert {(row.status, row.missed_slots) for row in rows} == {("success", 0)}, f"seed {seed}"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_day_of_beats_runs_each_slot_once(
    make_app: MakeApp, post: Post, clock: FakeClock, seed: int
) -> None:
    live_a_day(seed, make_app, post, clock)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_day_of_beats_runs_each_slot_once_from_any_phase(
    make_app: MakeApp, post: Post, clock: FakeClock, seed: int
) -> None:
    live_a_day(seed, make_app, post, clock)
