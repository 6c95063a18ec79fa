"""Slots of cron that are rare or moved by daylight saving, as operators and beats see them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from ..conftest import FakeClock, MakeApp
from .operated import SECRET, add_flow, as_operator, count, runs_of

Post = Callable[..., Any]
MINUTE, HOUR, DAY = (timedelta(seconds=seconds) for seconds in (60, 3_600, 86_400))


@pytest.mark.parametrize("zone", ["America/Nuuk", "America/Scoresbysund"])
def test_a_time_that_is_moved_past_midnight_runs_once_and_is_missed_once(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session, zone: str
) -> None:
    midnight = datetime(2026, 3, 29, 1, tzinfo=UTC)  # 23:00 to 24:00 are left out before it
    clock.time = midnight - 90 * MINUTE
    app = make_app(count, **SECRET)
    call = as_operator(app)
    add_flow(call, "late", every=None, cron="0,30 0,23 * * *", timezone=zone)

    slots = call("GET", "/flows/late", status=200).json["next_slots"]
    clock.time = midnight + 2 * HOUR
    post(app)
    clock.time = midnight + 23 * HOUR
    post(app)

    assert slots[:2] == ["2026-03-29T01:00:00+00:00", "2026-03-29T01:30:00+00:00"]
    assert len({*slots}) == 5
    runs = runs_of(dbsession, "late")
    assert [(run.scheduled_for, run.missed_slots) for run in runs] == [
        (midnight + 30 * MINUTE, 1),
        (midnight + 23 * HOUR, 0),
    ]


def test_a_zone_without_a_day_shows_and_runs_its_slots(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    clock.time = datetime(2011, 12, 29, 20, tzinfo=UTC)
    app = make_app(count, **SECRET)
    call = as_operator(app)
    add_flow(call, "samoa", every=None, cron="0 3,9 * * *", timezone="Pacific/Apia")

    slots = call("GET", "/flows/samoa", status=200).json["next_slots"]
    for slot in slots:
        clock.time = datetime.fromisoformat(slot)
        post(app)

    assert slots[:3] == [f"2011-12-30T{time}:00:00+00:00" for time in ("10", "13", "19")]
    assert [run.scheduled_for for run in runs_of(dbsession, "samoa")] == [
        datetime.fromisoformat(slot) for slot in slots
    ]


def test_a_schedule_whose_times_lie_decades_apart_is_valid(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app(count, **SECRET)
    call = as_operator(app)
    flow = add_flow(call, "leap", every=None, cron="0 0 29 2 */7").json
    for slot in flow["next_slots"]:
        clock.time = datetime.fromisoformat(slot)
        post(app)
    after = call("GET", "/flows/leap", status=200).json

    assert [slot[:4] for slot in flow["next_slots"]] == ["2032", "2060", "2088", "2128", "2156"]
    assert after["next_slots"][0] == "2184-02-29T00:00:00+00:00"
    assert after["why"] == "Not due until 2184-02-29 00:00:00 UTC."
    assert len(runs_of(dbsession, "leap")) == 5


def test_a_schedule_ends_with_the_calendar_and_stops_no_other_flow(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    clock.time = datetime(9996, 2, 28, 12, tzinfo=UTC)
    app = make_app((count, {"every": "1d"}), **SECRET)
    call = as_operator(app)
    add_flow(call, "leap", every=None, cron="0 0 29 2 *")

    shown = call("GET", "/flows/leap", status=200).json["next_slots"]
    clock.time += 12 * HOUR
    reply = post(app).json

    assert shown == ["9996-02-29T00:00:00+00:00"]
    assert reply["flows_succeeded"] == 1
    last = call("GET", "/flows/leap", status=200).json
    assert last["disabled_reason"].startswith("cron 0 0 29 2 * UTC has no slot before the year")
