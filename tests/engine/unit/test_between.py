"""Windows of the day: how they are read, and when they are open."""

from datetime import UTC, date, datetime, timedelta

import pytest

from data_flows.heartbeat.errors import ScheduleError
from data_flows.heartbeat.schedules.between import is_open, read_between, read_zone

from ..plain_clock import each, shows

MINUTE = timedelta(minutes=1)
WINDOWS = ["22:00-06:00", "9:30-17:00", "02:10-02:50", "01:30-02:15", "18:00-24:00", "00:00-00:01"]


@pytest.mark.parametrize(
    ("text", "opens", "closes"),
    [
        ("22:00-06:00", 1_320, 360),
        (" 9:05 - 17:59 ", 545, 1_079),
        ("18:00-24:00", 1_080, 1_440),
    ],
)
def test_a_window_states_when_it_opens_and_closes(text: str, opens: int, closes: int) -> None:
    assert read_between(text) == (opens, closes)


@pytest.mark.parametrize(
    "text",
    ["", "22:00", "22-06", "22:00-22:00", "24:00-06:00", "25:00-06:00", "9:60-10:00", "9:00-24:01"],
)
def test_a_window_that_cannot_be_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ScheduleError, match='as "22:00-06:00"') as raised:
        read_between(text)

    assert f"{text!r} is not a valid daily window" in str(raised.value)


@pytest.mark.parametrize("between", WINDOWS)
@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Europe/Berlin", date(2026, 3, 29)),
        ("Europe/Berlin", date(2026, 10, 25)),
        ("Europe/Berlin", date(2026, 6, 1)),
        ("Australia/Lord_Howe", date(2026, 4, 5)),
        ("Australia/Lord_Howe", date(2026, 10, 4)),
    ],
)
def test_a_window_is_open_in_minutes_of_the_local_time(between: str, zone: str, day: date) -> None:
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    plain = between.replace("9:30-", "09:30-")
    for minute in each(noon - timedelta(days=1), noon + timedelta(days=1), MINUTE):
        open_then = is_open(between, zone, minute + timedelta(seconds=59))
        assert open_then == shows(plain, zone, minute)


@pytest.mark.parametrize("name", ["", "Berlin", "Europe", "../passwd", "Europe/Berlin\n", "/etc"])
def test_a_zone_that_there_is_not_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(ScheduleError, match='such as "Europe/Berlin"') as raised:
        read_zone(name)

    assert f"{name!r} is not an IANA time zone" in str(raised.value)
