"""Each rule of schedules, shown once through HTTP: cron, windows of the day, and catching up.

Which slots a rule has is shown in unit/test_rule.py; here it is what beats make of them.
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import make_url, select, text, update
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlow, DataFlowRun
from data_flows.heartbeat.optional.operate.why import describe
from data_flows.heartbeat.runs.register import register

from ..conftest import FakeClock, MakeApp, heartbeat_of
from ..factories import NOON, data_flow

Post = Callable[..., Any]

DATABASE = make_url(os.environ.get("TEST_DATABASE_URL") or "sqlite://").get_backend_name()

MINUTE, HOUR, DAY = (timedelta(seconds=seconds) for seconds in (60, 3_600, 86_400))
BERLIN = ZoneInfo("Europe/Berlin")


def tick(_run: Run) -> None:
    """Do nothing."""


def tock(_run: Run) -> None:
    """Do nothing either."""


def cron(expression: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Declare `tick` by cron instead of an interval."""
    return tick, {"every": None, "cron": expression, **options}


def runs(app: TestApp, name: str = "tick") -> list[DataFlowRun]:
    """Return a flow's runs, oldest first."""
    with heartbeat_of(app).session() as session:
        mine = select(DataFlowRun).join(DataFlowRun.data_flow).where(DataFlow.name == name)
        return list(session.scalars(mine.order_by(DataFlowRun.id)))


def slots(app: TestApp, name: str = "tick") -> list[tuple[datetime | None, int]]:
    return [(run.scheduled_for, run.missed_slots) for run in runs(app, name)]


def row(app: TestApp, name: str = "tick") -> DataFlow:
    with heartbeat_of(app).session() as session:
        return session.scalars(select(DataFlow).where(DataFlow.name == name)).one()


def beat_at(app: TestApp, post: Post, clock: FakeClock, *moments: datetime) -> list[dict[str, Any]]:
    """Beat at these moments; return the replies."""
    replies = []
    for moment in moments:
        clock.advance((moment - clock.now()).total_seconds())
        replies.append(post(app).json)
    return replies


# ---------------------------------------------------------------------------------------------
# Cron


def test_a_new_cron_flow_is_first_due_at_its_next_time(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app(cron("0 3 * * *", timezone="Europe/Berlin"))
    three = datetime(2026, 3, 2, 3, tzinfo=BERLIN)

    replies = beat_at(
        app, post, clock, NOON, three - 10 * timedelta(seconds=1), three, three + HOUR, three + DAY
    )

    assert [reply["flows_triggered"] for reply in replies] == [0, 0, 1, 0, 1]
    assert slots(app) == [(three, 0), (three + DAY, 0)]


def test_the_first_window_of_cron_is_one_slot_and_the_next_ones_meet(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app(cron("0 9,17 * * *"))

    beat_at(app, post, clock, NOON, NOON + 5 * HOUR, NOON + 21 * HOUR, NOON + 30 * HOUR)

    morning, evening = NOON - 3 * HOUR, NOON + 5 * HOUR
    assert [(run.window_start, run.window_end) for run in runs(app)] == [
        (morning, evening),
        (evening, morning + DAY),
        (morning + DAY, evening + DAY),
    ]


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("30 2 * * *", ["28 02:30", "29 03:00", "30 02:30"]),
        ("30 * * * *", ["29 00:30", "29 01:30", "29 03:30", "29 04:30"]),
    ],
)
def test_no_slot_is_lost_when_clocks_are_set_ahead(
    make_app: MakeApp, post: Post, clock: FakeClock, expression: str, shown: list[str]
) -> None:
    clock.time = datetime(2026, 3, 28, 0, tzinfo=BERLIN).astimezone(UTC)
    app = make_app(cron(expression, timezone=BERLIN.key))

    beat_at(app, post, clock, *(clock.time + 30 * MINUTE * count for count in range(110)))

    times = [slot.astimezone(BERLIN).strftime("%d %H:%M") for slot, _ in slots(app) if slot]
    assert [time for time in times if shown[0] <= time <= shown[-1]] == shown
    assert {missed for _, missed in slots(app)} == {0}


def test_a_row_whose_cron_was_broken_by_hand_is_disabled_and_stops_no_other_flow(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app(cron("0 * * * *"), tock)
    post(app)
    dbsession.execute(update(DataFlow).where(DataFlow.name == "tick").values(cron="61 * * * *"))
    dbsession.commit()

    [reply] = beat_at(app, post, clock, NOON + HOUR)

    assert reply["flows_succeeded"] == reply["flows_triggered"] == 1
    assert not row(app).enabled
    assert "'61 * * * *' is not a valid cron expression (Bad minute)" in str(
        row(app).disabled_reason
    )


if DATABASE == "sqlite":  # the others take nothing else for an interval

    @pytest.mark.parametrize("interval", ["abc", 1.5, 10**13])
    def test_a_row_whose_interval_was_broken_by_hand_is_disabled_and_stops_no_other_flow(
        make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session, interval: object
    ) -> None:
        app = make_app(tick, tock)
        post(app)
        broken = text("UPDATE data_flows SET run_interval = :interval WHERE name = 'tick'")
        dbsession.execute(broken, {"interval": interval})
        dbsession.commit()
        again = make_app((tick, {"every": "7m"}), tock)

        [reply] = beat_at(again, post, clock, NOON + HOUR)

        assert reply["flows_succeeded"] == reply["flows_triggered"] == 1
        flow = describe(heartbeat_of(again), dbsession, "tick")[0]
        assert not flow.enabled
        assert f"{interval!r} is not a valid interval" in flow.why


def test_a_row_without_a_next_time_waits_for_its_next_time_of_cron(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app(tock)
    dbsession.add(data_flow(name="added", handler="tock", run_interval=None, cron="0 * * * *"))
    dbsession.commit()

    beat_at(app, post, clock, NOON + MINUTE, NOON + HOUR)

    assert slots(app, "added") == [(NOON + HOUR, 0)]


# ---------------------------------------------------------------------------------------------
# Windows of the day


def test_slots_outside_the_window_of_the_day_are_none_and_not_missed(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    options = {"every": "1h", "between": "22:00-02:00", "timezone": "Europe/Berlin"}
    app = make_app((tick, options))

    beat_at(app, post, clock, *(NOON + HOUR * count for count in range(48)))

    times = [slot.astimezone(BERLIN).strftime("%d %H:%M") for slot, _ in slots(app) if slot]
    assert times == [
        *("01 22:00", "01 23:00", "02 00:00", "02 01:00"),
        *("02 22:00", "02 23:00", "03 00:00", "03 01:00"),
    ]
    assert {missed for _, missed in slots(app)} == {0}


def test_a_slot_within_the_window_runs_whenever_the_beat_comes(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app(cron("0 1 * * *", between="00:00-02:00"))

    beat_at(app, post, clock, NOON, NOON + 20 * HOUR)

    assert slots(app) == [(NOON + 13 * HOUR, 0)]


# ---------------------------------------------------------------------------------------------
# Catching up: what becomes of slots that passed

HOURLY = [{"every": "1h"}, {"every": None, "cron": "0 * * * *", "start": "next"}]
RULES = pytest.mark.parametrize("rule", HOURLY, ids=["every", "cron"])


@RULES
def test_once_runs_the_latest_and_counts_the_others(
    make_app: MakeApp, post: Post, clock: FakeClock, rule: dict[str, Any]
) -> None:
    app = make_app((tick, rule))

    beat_at(app, post, clock, NOON, NOON + HOUR, NOON + 5 * HOUR + MINUTE, NOON + 6 * HOUR)

    assert slots(app)[-3:] == [(NOON + HOUR, 0), (NOON + 5 * HOUR, 3), (NOON + 6 * HOUR, 0)]


@RULES
def test_skip_runs_a_slot_within_its_grace_and_counts_what_it_passed_over_later(
    make_app: MakeApp, post: Post, clock: FakeClock, rule: dict[str, Any]
) -> None:
    app = make_app((tick, {**rule, "catch_up": "skip", "grace": "10m"}))

    beat_at(app, post, clock, NOON, NOON + HOUR + 10 * MINUTE, NOON + 4 * HOUR + 11 * MINUTE)
    skipped = row(app).skipped_slots
    [again, _] = beat_at(app, post, clock, NOON + 4 * HOUR + 12 * MINUTE, NOON + 5 * HOUR)

    assert skipped == 3
    assert again["flows_due"] == 0
    assert slots(app)[-2:] == [(NOON + HOUR, 0), (NOON + 5 * HOUR, 3)]
    assert row(app).skipped_slots == 0


@RULES
def test_all_runs_each_slot_oldest_first_and_no_more_than_the_limit_in_a_beat(
    make_app: MakeApp, post: Post, clock: FakeClock, rule: dict[str, Any]
) -> None:
    app = make_app(
        (tick, {**rule, "catch_up": "all"}), (tock, rule), **{"heartbeat.catch_up_limit": "3"}
    )

    _, first, second, third = beat_at(
        app, post, clock, NOON, NOON + 5 * HOUR, NOON + 5 * HOUR + MINUTE, NOON + 6 * HOUR
    )

    assert [reply["flows_triggered"] for reply in (first, second, third)] == [4, 2, 2]
    assert slots(app)[-6:] == [(NOON + HOUR * count, 0) for count in range(1, 7)]
    assert slots(app, "tock")[-2:] == [(NOON + 5 * HOUR, 4), (NOON + 6 * HOUR, 0)]
    windows = [(run.window_start, run.window_end) for run in runs(app)[-6:]]
    assert windows == [(NOON + HOUR * count, NOON + HOUR * (count + 1)) for count in range(6)]


def test_a_flow_that_catches_up_starves_no_other_where_there_is_one_worker(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    settings = {"heartbeat.workers": "1", "heartbeat.catch_up_limit": "4"}
    app = make_app((tick, {"catch_up": "all"}), tock, **settings)

    _, reply = beat_at(app, post, clock, NOON, NOON + DAY)

    assert reply["flows_triggered"] == 5
    assert [len(slots(app)), len(slots(app, "tock"))] == [5, 2]


@RULES
def test_a_flow_that_is_enabled_again_after_a_month_runs_once(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session, rule: dict[str, Any]
) -> None:
    app = make_app((tick, rule), (tock, {**rule, "catch_up": "skip"}))
    beat_at(app, post, clock, NOON, NOON + HOUR)
    before = len(runs(app))

    dbsession.execute(update(DataFlow).values(enabled=False))
    dbsession.commit()
    beat_at(app, post, clock, NOON + 10 * DAY)
    dbsession.execute(update(DataFlow).values(enabled=True))
    dbsession.commit()
    beat_at(app, post, clock, *(NOON + 30 * DAY + MINUTE * count for count in range(1, 5)))

    for name in ("tick", "tock"):
        assert len(runs(app, name)) == before + 1
        assert slots(app, name)[-1] == (NOON + 30 * DAY, 30 * 24 - 2)


@RULES
def test_a_backup_of_two_days_ago_runs_once_and_goes_on_with_its_grid(
    make_app: MakeApp, post: Post, clock: FakeClock, rule: dict[str, Any]
) -> None:
    app = make_app((tick, rule))
    beat_at(app, post, clock, NOON, NOON + HOUR)

    # The later rows do not exist yet, and the clock shows today.
    [_, reply, *_] = beat_at(
        app, post, clock, NOON + 2 * HOUR, NOON + 50 * HOUR + MINUTE, NOON + 51 * HOUR
    )

    assert reply["flows_triggered"] == 1
    assert slots(app)[-2:] == [(NOON + 50 * HOUR, 47), (NOON + 51 * HOUR, 0)]


def test_after_a_leap_back_cron_waits_for_its_next_slot_and_runs_none_twice(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app(cron("0 * * * *"))
    beat_at(app, post, clock, *(NOON + HOUR * count for count in range(4)))

    clock.leap(-2 * 3_600)
    beat_at(app, post, clock, *(NOON + HOUR * count for count in range(1, 6)))

    assert slots(app) == [(NOON + HOUR * count, 0) for count in range(1, 6)]


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [("once", [(5, 3)]), ("skip", [(5, 3)]), ("all", [(2, 0), (3, 0), (4, 0), (5, 0)])],
)
def test_after_a_leap_ahead_each_flow_follows_its_rule(
    make_app: MakeApp, post: Post, clock: FakeClock, catch_up: str, expected: list[tuple[int, int]]
) -> None:
    app = make_app(cron("0 * * * *", catch_up=catch_up))
    beat_at(app, post, clock, NOON, NOON + HOUR)

    clock.leap(4 * 3_600)
    post(app)

    assert slots(app)[1:] == [(NOON + HOUR * hours, missed) for hours, missed in expected]


def test_a_run_that_takes_longer_than_the_distance_of_slots_skips_what_passed(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    lengths = iter([35 * 60, 0])

    def long(_run: Run) -> None:
        clock.advance(next(lengths))

    app = make_app((long, {"every": None, "cron": "*/15 * * * *"}), **{"heartbeat.wait": "1h"})
    beat_at(app, post, clock, NOON, NOON + 15 * MINUTE)

    assert slots(app, "long") == [(NOON + 15 * MINUTE, 0), (NOON + 45 * MINUTE, 1)]


# ---------------------------------------------------------------------------------------------
# A schedule that changes in the code


@pytest.mark.parametrize(
    ("before", "after", "next_run_at"),
    [
        ({"every": "1h"}, {"every": None, "cron": "30 * * * *"}, NOON + 30 * MINUTE),
        ({"every": None, "cron": "30 * * * *"}, {"every": "1h"}, NOON),
        (
            {"every": None, "cron": "0 3 * * *"},
            {"every": None, "cron": "0 3 * * *", "timezone": "Europe/Berlin"},
            NOON + 14 * HOUR,
        ),
    ],
)
def test_another_schedule_in_the_code_is_taken_over(
    make_app: MakeApp,
    post: Post,
    before: dict[str, Any],
    after: dict[str, Any],
    next_run_at: datetime,
) -> None:
    post(make_app((tick, {"start": "next", **before})))

    app = make_app((tick, {"start": "next", **after}))
    register(heartbeat_of(app))

    flow = row(app)
    assert (flow.run_interval is None, flow.cron) == (after["every"] is None, after.get("cron"))
    assert flow.timezone == after.get("timezone", "UTC")
    assert flow.next_run_at == next_run_at
