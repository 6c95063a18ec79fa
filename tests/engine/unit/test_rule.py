"""What follows from a rule: which slots come, whenever and however often it is asked."""

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from time import process_time
from typing import Literal

import pytest

from data_flows.heartbeat.errors import ScheduleError
from data_flows.heartbeat.schedules.every import Due
from data_flows.heartbeat.schedules.rule import (
    Rule,
    due,
    first_slot,
    next_after,
    next_slots,
    rescheduled,
    slot_before,
    slots_after,
)

from ..plain_clock import cron_times, each, shows

BERLIN = "Europe/Berlin"
SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=s) for s in (1, 60, 3_600, 86_400))
BEGIN = datetime(2026, 3, 20, 9, 30, tzinfo=UTC)
EDGES = [BEGIN, datetime(2026, 10, 20, 9, 30, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)]
RULES = [
    Rule(every=60),
    Rule(every=300),
    Rule(every=5_400),
    Rule(every=45, between="23:59-00:01"),
    Rule(every=420, timezone=BERLIN, between="22:00-06:00"),
    Rule(every=300, timezone=BERLIN, between="01:55-02:20"),
    Rule(every=1_260, timezone="Australia/Lord_Howe", between="09:00-17:30"),
    Rule(cron="* * * * *"),
    Rule(cron="*/15 * * * *", timezone=BERLIN),
    Rule(cron="30 2 * * *", timezone=BERLIN),
    Rule(cron="0 0,12 * * MON-FRI", timezone="America/New_York"),
    Rule(cron="45 * * * *", timezone="Australia/Lord_Howe"),
    Rule(cron="10 */3 * * *", timezone=BERLIN, between="20:00-08:00"),
    Rule(cron="20 2 * * *", timezone=BERLIN, between="02:00-03:00"),
    Rule(cron="@daily", timezone="Asia/Kolkata"),
]


@cache
def expected_slots(rule: Rule, first: datetime, until: datetime) -> list[datetime]:
    """Give the slots that a flow has from `first` on, the first of them, to before `until`."""
    if rule.every:
        step = timedelta(seconds=rule.every)
        slots = list(each(first, until, step))
    else:
        cron = rule.cron or ""
        slots = cron_times([cron], rule.timezone, first, until)[cron]
    return [slot for slot in slots if shows(rule.between, rule.timezone, slot)]


def live(rule: Rule, begin: datetime, beats: Iterable[datetime]) -> list[Due]:
    """Beat a flow as the engine does, and return each slot that was due."""
    ahead, first, did = first_slot(rule, begin), True, []
    for now in beats:
        while ahead <= now:
            found = due(rule, ahead, now, first=first)
            assert found.next_slot > ahead or found.slot, "it goes on"
            did.append(found)
            ahead = found.next_slot
            first = first and found.slot is None
    return did


def ran(did: list[Due]) -> list[datetime]:
    return [found.slot for found in did if found.slot]


def beats(begin: datetime, until: datetime, gap: float, seed: int) -> Iterator[datetime]:
    """Yield when beats come: at `begin`, at random up to `gap` seconds apart, and at `until`."""
    chance = random.Random(seed)  # noqa: S311 - a simulation, and the seed repeats it
    now = begin
    while now < until:
        yield now
        now += timedelta(seconds=chance.uniform(1, gap))
    yield until


@pytest.mark.parametrize("begin", EDGES)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_beats_that_come_within_each_step_run_each_slot_once(rule: Rule, begin: datetime) -> None:
    until = begin + 14 * DAY
    first = first_slot(rule, begin)
    step = timedelta(seconds=min(rule.every or 60, 60))
    chance = random.Random(7)  # noqa: S311 - a simulation, and the seed repeats it
    # The first one sets the grid; the others come some time after their due time.
    rest = (now + step * chance.random() for now in each(first + step, until - step, step))

    did = live(rule, begin, itertools.chain([first], rest))

    slots = expected_slots(rule, first, until)
    assert ran(did) == slots[: len(did)]
    assert len(slots) - len(did) <= 1, "the last beat may come before the last slot"
    assert sum(found.missed_slots for found in did) == 0


@pytest.mark.parametrize("gap", [90, 7_000, 400_000])
@pytest.mark.parametrize("catch_up", ["once", "skip", "all"])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_whenever_beats_come_each_slot_is_run_or_counted(
    rule: Rule, catch_up: Literal["once", "skip", "all"], gap: float
) -> None:
    rule = replace(rule, catch_up=catch_up)
    until = BEGIN + 14 * DAY

    times = list(beats(BEGIN, until, gap, seed=int(gap)))
    first = first_slot(rule, BEGIN)
    first_claim = next(now for now in times if first <= now)

    did = live(rule, BEGIN, times)

    slots = ran(did)
    if rule.every and shows(rule.between, rule.timezone, first_claim):
        first = first_claim
    expected = expected_slots(rule, first, until + timedelta.resolution)
    assert set(slots) <= set(expected)
    assert all(slot < later for slot, later in pairwise(slots)), "they increase"
    assert len(slots) + sum(found.missed_slots for found in did) == len(expected)
    if catch_up == "all":
        assert slots == expected


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_between_two_slots_the_next_one_is_the_later(rule: Rule) -> None:
    slot = first_slot(rule, BEGIN)
    for later in itertools.islice(slots_after(rule, slot), 50):
        assert next_after(rule, slot + (later - slot) / 3, slot) == later
        assert rule.every or slot_before(rule, later) == slot
        slot = later


# ---------------------------------------------------------------------------------------------
# Catching up

HOURLY = Rule(cron="0 * * * *")
EVERY = Rule(every=3_600)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


HOURS = pytest.mark.parametrize("rule", [HOURLY, EVERY, Rule(every=3_600, between="00:00-24:00")])
LATE = NOON + 3 * HOUR + MINUTE  # four slots have passed: noon, and three more


@HOURS
def test_once_takes_the_latest_and_counts_the_others(rule: Rule) -> None:
    assert due(rule, NOON, LATE) == Due(NOON + 3 * HOUR, 3, NOON + 4 * HOUR)


@HOURS
def test_skip_takes_the_latest_if_it_is_within_its_grace(rule: Rule) -> None:
    found = due(replace(rule, catch_up="skip", grace=60), NOON, LATE)

    assert found == Due(NOON + 3 * HOUR, 3, NOON + 4 * HOUR)


@HOURS
def test_skip_moves_on_where_the_latest_is_older_and_counts_it_too(rule: Rule) -> None:
    found = due(replace(rule, catch_up="skip", grace=60), NOON, LATE + SECOND)

    assert found == Due(None, 4, NOON + 4 * HOUR)


@HOURS
def test_the_grace_is_an_interval_by_default(rule: Rule) -> None:
    for now in each(NOON + 3 * HOUR, NOON + 4 * HOUR - MINUTE, MINUTE):
        assert due(replace(rule, catch_up="skip"), NOON, now).slot == NOON + 3 * HOUR


@HOURS
def test_all_takes_the_oldest_and_counts_none(rule: Rule) -> None:
    assert due(replace(rule, catch_up="all"), NOON, LATE) == Due(NOON, 0, NOON + HOUR)


def test_the_default_grace_of_a_short_interval_is_a_minute() -> None:
    rule = Rule(every=10, between="12:00-12:01")

    late = due(replace(rule, catch_up="skip"), NOON, NOON + MINUTE + 50 * SECOND)
    later = due(replace(rule, catch_up="skip"), NOON, NOON + MINUTE + 51 * SECOND)

    assert late.slot == NOON + 50 * SECOND
    assert (later.slot, later.missed_slots, later.next_slot) == (None, 6, NOON + DAY)


def test_the_default_grace_of_cron_is_the_distance_from_the_slot_before() -> None:
    rule = Rule(cron="0 3 * * MON,TUE")  # 24 hours before Tuesday, six days before Monday
    tuesday = datetime(2026, 3, 3, 3, tzinfo=UTC)
    monday = tuesday + 6 * DAY

    assert due(replace(rule, catch_up="skip"), tuesday, tuesday + DAY).slot == tuesday
    assert due(replace(rule, catch_up="skip"), tuesday, tuesday + DAY + SECOND).slot is None
    assert due(replace(rule, catch_up="skip"), monday, monday + DAY - MINUTE).slot == monday


@HOURS
@pytest.mark.parametrize("catch_up", ["once", "skip", "all"])
def test_a_slot_is_due_from_its_time_on_and_not_a_moment_before(
    rule: Rule, catch_up: Literal["once", "skip", "all"]
) -> None:
    rule = replace(rule, catch_up=catch_up)

    for first in (True, False):
        assert due(rule, NOON, NOON, first=first) == Due(NOON, 0, NOON + HOUR)
        assert due(rule, NOON, NOON - timedelta.resolution, first=first) == Due(None, 0, NOON)


# ---------------------------------------------------------------------------------------------
# Windows of the day

NIGHTLY = Rule(every=1_800, timezone=BERLIN, between="22:00-06:00")


def test_a_slot_outside_the_window_is_none_and_not_missed() -> None:
    last = datetime(2026, 3, 2, 4, 30, tzinfo=UTC)  # 05:30 in Berlin
    evening = datetime(2026, 3, 2, 21, 0, tzinfo=UTC)

    assert next_after(NIGHTLY, last) == evening
    assert due(NIGHTLY, evening, evening + MINUTE) == Due(evening, 0, evening + 30 * MINUTE)


def test_a_late_beat_outside_the_window_still_runs_the_slot_that_lay_inside() -> None:
    last = datetime(2026, 3, 2, 4, 30, tzinfo=UTC)

    found = due(NIGHTLY, last, last + 4 * HOUR)

    assert (found.slot, found.missed_slots) == (last, 0)


def test_a_new_flow_begins_where_its_window_opens() -> None:
    evening = datetime(2026, 3, 1, 21, 0, tzinfo=UTC)

    assert first_slot(NIGHTLY, NOON) == evening
    assert first_slot(NIGHTLY, evening + MINUTE) == evening + MINUTE


def test_the_grid_of_a_new_flow_begins_with_its_first_claim_or_where_the_window_opened() -> None:
    evening = datetime(2026, 3, 1, 21, 0, tzinfo=UTC)
    inside, later = evening + 17 * MINUTE, evening + 9 * HOUR + 17 * MINUTE

    assert due(NIGHTLY, evening, inside, first=True) == Due(inside, 0, inside + 30 * MINUTE)
    assert due(NIGHTLY, evening, later, first=True).slot == evening + 7 * HOUR + 30 * MINUTE
    assert due(NIGHTLY, evening, evening - SECOND, first=True) == Due(None, 0, evening)


def test_a_grid_that_never_meets_its_window_restarts_where_it_opens() -> None:
    rule = Rule(every=86_400, between="22:00-06:00")

    assert next_after(rule, NOON) == NOON + DAY + 10 * HOUR
    assert due(rule, NOON, NOON + MINUTE) == Due(None, 0, NOON + DAY + 10 * HOUR)


def test_a_cron_that_never_meets_its_window_is_refused() -> None:
    with pytest.raises(ScheduleError, match=r"no time of '0 12 \* \* \*' lies between 22:00-06"):
        next_after(Rule(cron="0 12 * * *", between="22:00-06:00"), NOON)


# ---------------------------------------------------------------------------------------------
# New, changed, resumed


def test_a_new_flow_is_due_at_once_or_next_and_cron_at_its_time() -> None:
    assert first_slot(EVERY, NOON) == NOON
    assert first_slot(EVERY, NOON, "next") == NOON + HOUR
    assert first_slot(HOURLY, NOON) == first_slot(HOURLY, NOON, "next") == NOON + HOUR


def test_the_first_claim_of_every_is_its_first_slot_and_misses_nothing() -> None:
    now = NOON + 7 * HOUR + SECOND

    assert due(EVERY, NOON, now, first=True) == Due(now, 0, now + HOUR)
    assert due(HOURLY, NOON, now, first=True) == Due(NOON + 7 * HOUR, 7, NOON + 8 * HOUR)


def test_cron_is_not_due_between_its_times_whatever_the_row_holds() -> None:
    found = due(HOURLY, NOON + MINUTE, NOON + 2 * MINUTE)

    assert found == Due(None, 0, NOON + HOUR)


def test_a_changed_rule_never_makes_a_passed_slot_due() -> None:
    assert rescheduled(EVERY, NOON, NOON + MINUTE) == NOON + HOUR
    assert rescheduled(EVERY, NOON, NOON + 5 * HOUR) == NOON + 5 * HOUR
    assert rescheduled(HOURLY, NOON, NOON + 5 * HOUR) == NOON + 6 * HOUR
    assert rescheduled(NIGHTLY, NOON, NOON + MINUTE) == NOON + 9 * HOUR


def test_the_next_slots_begin_with_the_one_that_is_due_now() -> None:
    hours = [NOON + 3 * HOUR + count * HOUR for count in range(5)]

    assert next_slots(HOURLY, NOON, NOON + 3 * HOUR + MINUTE) == hours
    assert next_slots(EVERY, NOON + 3 * HOUR, NOON) == hours
    assert next_slots(NIGHTLY, NOON, NOON, 2) == [NOON + 9 * HOUR, NOON + 9 * HOUR + 30 * MINUTE]


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Rule(every=300), "every 5m"),
        (Rule(every=300, timezone=BERLIN), "every 5m Europe/Berlin"),
        (Rule(cron="0 3 * * *", timezone=BERLIN), "cron 0 3 * * * Europe/Berlin"),
    ],
)
def test_a_rule_is_described_in_a_few_words(rule: Rule, text: str) -> None:
    assert str(rule) == text


@pytest.mark.parametrize(
    "rule",
    [
        Rule(every=1),
        Rule(cron="* * * * *", timezone=BERLIN),
        Rule(every=300, timezone=BERLIN, between="22:00-06:00"),
        Rule(cron="0 0 29 2 *", timezone=BERLIN),
    ],
    ids=str,
)
def test_a_flow_that_was_down_for_a_year_holds_its_lock_for_no_more_than_a_moment(
    rule: Rule,
) -> None:
    begin = first_slot(rule, BEGIN)

    began = process_time()
    found = due(rule, begin, begin + 365 * DAY)

    assert process_time() - began < 2, "a tenth of it, where no coverage is measured"
    assert found.slot
