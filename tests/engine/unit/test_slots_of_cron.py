"""The slots of cron across all days: increasing, none twice, and as far as the calendar goes.

The reference is plain_clock.py, in each zone of IANA that is set near midnight.
"""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest

from data_flows.heartbeat.errors import ScheduleError
from data_flows.heartbeat.schedules.rule import (
    Rule,
    due,
    next_after,
    next_slots,
    slot_before,
    slots_after,
)

from ..plain_clock import cron_times

SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=s) for s in (1, 60, 3_600, 86_400))
YEARS = range(2005, 2036)
EXPRESSIONS = [
    *("0,30 0,23 * * *", "30 23 * * *", "0 0 * * *", "0-59/7 22-23,0-1 * * *", "1 0 * * MON"),
    *("59 23 28-31 * *", "30 0 1 * *", "*/20 * * * *", "15 */2 * * *", "45 * * * *", "0 3 * * *"),
]
# Where a time is moved past midnight, a whole day is left out, or midnight comes twice.
KNOWN = [
    ("America/Nuuk", datetime(2026, 3, 29, 1, tzinfo=UTC)),
    ("America/Scoresbysund", datetime(2026, 3, 29, 1, tzinfo=UTC)),
    ("America/Nuuk", datetime(2026, 10, 25, 1, tzinfo=UTC)),
    ("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC)),
    ("Pacific/Fakaofo", datetime(2011, 12, 30, 11, tzinfo=UTC)),
    ("America/St_Johns", datetime(2010, 11, 7, 2, tzinfo=UTC)),
    ("America/St_Johns", datetime(2010, 3, 14, 3, tzinfo=UTC)),
    ("America/Asuncion", datetime(2010, 10, 3, 4, tzinfo=UTC)),
    ("America/Havana", datetime(2026, 11, 1, 5, tzinfo=UTC)),
    ("Africa/Cairo", datetime(2026, 10, 29, 21, tzinfo=UTC)),
    ("Antarctica/Troll", datetime(2026, 3, 29, 1, tzinfo=UTC)),
]


def settings_near_midnight(zone: str) -> Iterator[datetime]:
    """Yield when the clocks of a zone are set, where they show an hour beside midnight then."""
    there, day = ZoneInfo(zone), datetime(YEARS[0], 1, 1, tzinfo=UTC)
    while day.year in YEARS:
        before, day = day, day + 5 * DAY
        offset = before.astimezone(there).utcoffset()
        if offset == day.astimezone(there).utcoffset():
            continue
        low, high = before, day
        while high - low > MINUTE:
            middle = low + (high - low) / 2
            is_before = middle.astimezone(there).utcoffset() == offset
            low, high = (middle, high) if is_before else (low, middle)
        if {moment.astimezone(there).hour for moment in (low, high)} & {23, 0, 1}:
            yield high.replace(second=0, microsecond=0)


def all_settings() -> list[tuple[str, datetime]]:
    """Return a zone and a moment for each change of clocks; zones that agree stand for each other.

    They are in the order of a fixed seed, so that the first ones are a sample.
    """
    found: dict[object, tuple[str, datetime]] = {}
    for zone in files("tzdata").joinpath("zones").read_text().split():
        for moment in settings_near_midnight(zone):
            sides = [
                (moment + shift).astimezone(ZoneInfo(zone)).utcoffset() for shift in (-HOUR, HOUR)
            ]
            found.setdefault((moment, *sides), (zone, moment))
    chosen = sorted(found.values())
    random.Random(1).shuffle(chosen)  # noqa: S311 - a sample, and the seed repeats it
    return chosen


def assert_slots_are_those_of_the_reference(zone: str, moment: datetime) -> None:
    since, until = moment - 3 * DAY, moment + 3 * DAY
    since = since.replace(minute=0)
    for cron, expected in cron_times(EXPRESSIONS, zone, since, until).items():
        slots = slots_after(Rule(cron=cron, timezone=zone), since - SECOND)
        assert [*takewhile(until.__gt__, slots)] == expected, (zone, moment, cron)
        assert all(slot < later for slot, later in pairwise(expected))


@pytest.mark.parametrize(("zone", "moment"), KNOWN)
def test_the_slots_around_a_change_near_midnight(zone: str, moment: datetime) -> None:
    assert_slots_are_those_of_the_reference(zone, moment)


def test_the_slots_around_a_sample_of_all_changes_near_midnight() -> None:
    settings = all_settings()

    assert len(settings) > 500, "else the sample is of another kind"
    for zone, moment in settings[:60]:
        assert_slots_are_those_of_the_reference(zone, moment)


@pytest.mark.slow
def test_the_slots_around_all_changes_near_midnight() -> None:
    for zone, moment in all_settings():
        assert_slots_are_those_of_the_reference(zone, moment)


@pytest.mark.parametrize(("zone", "moment"), KNOWN)
@pytest.mark.parametrize("cron", EXPRESSIONS)
def test_from_any_moment_the_next_slot_is_the_same(zone: str, moment: datetime, cron: str) -> None:
    rule, since = Rule(cron=cron, timezone=zone), moment - 2 * DAY
    slots = [*takewhile((moment + 2 * DAY).__gt__, slots_after(rule, since))]

    for slot, later in pairwise(slots):
        for count in range(4):
            assert next_after(rule, slot + (later - slot) * count / 4) == later
        assert slot_before(rule, later) == slot


def test_a_time_that_is_moved_past_midnight_is_one_slot_and_missed_once() -> None:
    rule = Rule(cron="0,30 0,23 * * *", timezone="America/Nuuk")
    evening = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)  # 22:30: in half an hour it is midnight
    midnight, half_past = evening + 30 * MINUTE, evening + HOUR

    assert next_slots(rule, midnight, evening, 3) == [midnight, half_past, midnight + 23 * HOUR]
    found = due(rule, midnight, half_past + MINUTE)
    assert (found.slot, found.missed_slots) == (half_past, 1)


def test_a_day_that_is_left_out_moves_its_times_to_where_it_ends() -> None:
    rule = Rule(cron="0 3,9 * * *", timezone="Pacific/Apia")
    morning = datetime(2011, 12, 29, 3, tzinfo=ZoneInfo("Pacific/Apia")).astimezone(UTC)

    shown = [
        slot.astimezone(ZoneInfo("Pacific/Apia")).strftime("%d %H:%M")
        for slot in next_slots(rule, morning, morning)
    ]

    assert shown == ["29 03:00", "29 09:00", "31 00:00", "31 03:00", "31 09:00"]


# ---------------------------------------------------------------------------------------------
# Decades apart, and the end of the calendar

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "years"),
    [
        ("0 0 29 2 */7", [2032, 2060, 2088, 2128, 2156, 2184]),
        ("0 0 29 2 *", [2028, 2032, 2036, 2040, 2044, 2048]),
        ("0 0 */28 2 0#5", [2032, 2060, 2088, 2128, 2156, 2184]),
    ],
)
def test_slots_that_lie_decades_apart_are_found_one_after_the_other(
    cron: str, years: list[int]
) -> None:
    slots = next_slots(Rule(cron=cron), next_after(Rule(cron=cron), NOON), NOON, 6)

    assert [slot.year for slot in slots] == years
    assert {(slot.month, slot.day) for slot in slots} == {(2, 29)}


def test_a_grid_that_meets_its_window_goes_on_for_longer_than_it_is_looked_for() -> None:
    rule = Rule(every=86_400, between="11:00-13:00")

    slots = [*islice(slots_after(rule, NOON), 16_000)]

    assert slots == [NOON + DAY * count for count in range(1, 16_001)]


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
@pytest.mark.parametrize(
    "schedule",
    [
        {"cron": "0 0 * * *"},
        {"cron": "* * * * *"},
        {"every": 3_600},
        {"every": 2**31 - 1},
        {"every": 3_600, "between": "22:00-06:00"},
    ],
)
def test_slots_end_with_the_calendar(zone: str, schedule: dict[str, int | str]) -> None:
    rule = Rule(**schedule, timezone=zone)  # type: ignore[arg-type] # each as its field has it
    late = datetime(9999, 12, 26, 12, tzinfo=UTC)

    slots = [*slots_after(rule, late)]

    assert all(slot < later for slot, later in pairwise([late, *slots]))
    assert bool(slots) == (rule.every != 2**31 - 1)
    with pytest.raises(ScheduleError, match="has no slot before the year 10000"):
        next_after(rule, datetime.max.replace(tzinfo=UTC))
    with pytest.raises(ScheduleError, match="has no slot before the year 10000"):
        due(rule, late, datetime.max.replace(tzinfo=UTC))


def test_a_leap_day_after_the_last_one_does_not_come() -> None:
    with pytest.raises(ScheduleError, match="has no slot before the year 10000"):
        next_after(Rule(cron="0 0 29 2 *"), datetime(9997, 1, 1, tzinfo=UTC))
