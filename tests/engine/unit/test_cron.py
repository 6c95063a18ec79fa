"""The times of cron expressions: valid and invalid ones, and days of 23 and 25 hours."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from data_flows.heartbeat.errors import ScheduleError
from data_flows.heartbeat.schedules.cron import read_cron, times_of

from ..plain_clock import cron_times

SLOW_ZONES = ["Europe/Berlin", "America/New_York", "Asia/Kolkata"]
ZONES = ["Australia/Lord_Howe", *(pytest.param(z, marks=pytest.mark.slow) for z in SLOW_ZONES)]
# The last ones are set at midnight, and by two hours.
SET_ZONES = [
    *SLOW_ZONES[:2],
    "Asia/Beirut",
    "America/Santiago",
    "America/Havana",
    "Antarctica/Troll",
]
EXPRESSIONS = [
    *("* * * * *", "*/20 * * * *", "45 * * * *", "15 */2 * * *", "* 2 * * *", "0 * * * *"),
    *("30 2 * * *", "0,20,45 1-3 * * *", "15 0 * * *", "0 12 13 * FRI", "10 2 * MAR,OCT 0"),
    *("0 3 */2 * MON-FRI", "@daily"),
]
BEGIN, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)


def days(since: datetime, until: datetime) -> Iterable[date]:
    return (since.date() + timedelta(days=count) for count in range(-1, (until - since).days + 2))


def engine_times(cron: str, zone: str, since: datetime, until: datetime) -> list[datetime]:
    times = [moment for day in days(since, until) for moment in times_of(cron, zone, day)]
    assert times == sorted(set(times)), "in order, and none twice"
    return [moment for moment in times if since <= moment < until]


@pytest.mark.parametrize("zone", ZONES)
def test_the_times_of_a_year_are_those_at_which_debians_cron_would_run(zone: str) -> None:
    for cron, times in cron_times(EXPRESSIONS, zone, BEGIN, END).items():
        assert engine_times(cron, zone, BEGIN, END) == times, cron


@pytest.mark.parametrize("zone", SET_ZONES)
def test_days_of_another_length_are_as_debians_cron_has_them(zone: str) -> None:
    there = ZoneInfo(zone)
    for count in range(365):
        day = BEGIN + timedelta(days=count)
        shifts = {(day + timedelta(hours=hours)).astimezone(there).utcoffset() for hours in (0, 24)}
        if len(shifts) > 1:
            around = day - timedelta(days=2), day + timedelta(days=3)

            for cron, times in cron_times(EXPRESSIONS, zone, *around).items():
                assert engine_times(cron, zone, *around) == times, cron


@pytest.mark.parametrize(
    ("cron", "day", "shown"),
    [
        ("30 2 * * *", date(2026, 3, 29), ["03:00 CEST"]),  # 02:30 is left out
        ("*/30 2 * * *", date(2026, 3, 29), []),
        ("0,30 2,3 * * *", date(2026, 3, 29), ["03:00 CEST", "03:30 CEST"]),
        ("30 2 * * *", date(2026, 10, 25), ["02:30 CEST"]),  # 02:30 comes twice
        (
            "*/30 2 * * *",
            date(2026, 10, 25),
            ["02:00 CEST", "02:30 CEST", "02:00 CET", "02:30 CET"],
        ),
        ("30 */2 * * *", date(2026, 10, 25), None),
    ],
)
def test_both_edges_of_summer_time_in_berlin(cron: str, day: date, shown: list[str] | None) -> None:
    zone = ZoneInfo("Europe/Berlin")

    times = [t.astimezone(zone).strftime("%H:%M %Z") for t in times_of(cron, zone.key, day)]

    if shown is None:
        shown = [f"{hour:02}:30 {'CEST' if hour < 3 else 'CET'}" for hour in range(0, 24, 2)]
        shown.insert(2, "02:30 CET")
    assert times == shown


@pytest.mark.parametrize(
    ("cron", "problem"),
    [
        ("", "Wrong number of fields"),
        ("0 3 * *", "Wrong number of fields"),
        ("0 0 3 * * *", "Wrong number of fields"),
        ("61 * * * *", "Bad minute"),
        ("0 24 * * *", "Bad hour"),
        ("0 3 0 * *", "Bad day-of-month"),
        ("0 3 30 2 *", "Bad day-of-month"),
        ("0 3 * 13 *", "Bad month"),
        ("0 3 * * 8", "Bad day-of-week"),
        ("0 3 * * 1#1/2", "Bad day-of-week"),
        ("*/0 * * * *", "Bad minute"),
        ("0 3 31 2 1-0", "Bad day-of-week"),
        ("0 0 */31 2 1#5", "It never comes"),
        ("@reboot", "Wrong number of fields"),
    ],
)
def test_an_invalid_expression_is_refused_with_its_problem(cron: str, problem: str) -> None:
    with pytest.raises(ScheduleError, match="is not a valid cron expression") as raised:
        read_cron(cron)

    assert f"{cron!r} is not a valid cron expression ({problem})" in str(raised.value)
    assert '"0 3 * * MON-FRI"' in str(raised.value)
