"""A flow's rule, and what follows: which slot is due, how many were missed, what comes next."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, takewhile
from typing import Literal

from ..durations import format_every
from ..errors import DeclarationError
from .between import is_open, read_zone
from .cron import DAY, MINUTE, times_of
from .every import CRON_INTERVAL, Due, early_tolerance, latest_due
from .every import rescheduled as one_interval_later

# What SQLite rounds times to, where it compares them.
MOMENT = timedelta(milliseconds=1)
# How far a slot is looked for: 29 February is on each day of the week within 40 years.
MOST_DAYS = 41 * 366


@dataclass(frozen=True, slots=True)
class Rule:
    """When a flow is due: `every` so many seconds, or at the times of `cron` in `timezone`.

    between: the window of the day, in `timezone`; a slot outside of it is none, and not missed.
    catch_up: of several slots that passed "once" runs the latest; "skip" does if that one is at
        most `grace` seconds old (by default one interval), or else none; "all" runs each.
    """

    every: int | None = None
    cron: str | None = None
    timezone: str = "UTC"
    between: str | None = None
    catch_up: Literal["once", "skip", "all"] = "once"
    grace: int | None = None

    def __str__(self) -> str:
        if self.cron:
            return f"cron {self.cron} {self.timezone}"
        return f"every {format_every(self.every or 0)} {self.timezone}".removesuffix(" UTC")


def due(rule: Rule, next_slot: datetime, now: datetime, *, first: bool = False) -> Due:
    """Return what is due at `now` of the slots from `next_slot` on, and where the flow goes on.

    The `first` claim of an `every` flow sets its grid, if its window is open then.
    """
    if rule.every and first and is_open(rule.between, rule.timezone, now):
        next_slot = now
    if rule.every and rule.between is None and rule.catch_up != "all":
        found = latest_due(next_slot, rule.every, now)
    else:
        slot = next_after(rule, next_slot - MOMENT, next_slot)
        until = now + early_tolerance(rule.every or CRON_INTERVAL) + MOMENT
        if slot >= until:
            return Due(None, 0, slot)
        missed_slots, later = 0, slots_after(rule, slot)
        while (following := next(later)) < until and rule.catch_up != "all":
            slot, missed_slots = following, missed_slots + 1
        found = Due(slot, missed_slots, following)
    if rule.catch_up == "skip" and found.slot:
        interval = max(found.slot - slot_before(rule, found.slot), MINUTE)
        if now - found.slot > (timedelta(seconds=rule.grace) if rule.grace else interval):
            return Due(None, found.missed_slots + 1, found.next_slot)
    return found


def first_slot(rule: Rule, now: datetime, start: Literal["now", "next"] = "now") -> datetime:
    """Return where a new flow begins: `every` at once, or after an interval; `cron` at its time."""
    if not rule.every:
        return next_after(rule, now)
    return _opening(rule, now + timedelta(seconds=rule.every if start == "next" else 0))


def rescheduled(rule: Rule, last_slot: datetime | None, now: datetime) -> datetime:
    """Return the next slot after the rule was changed, which never is one that has passed."""
    if not rule.every:
        return next_after(rule, now)
    return _opening(rule, one_interval_later(last_slot, rule.every, now))


def next_slots(rule: Rule, next_slot: datetime, now: datetime, number: int = 5) -> list[datetime]:
    """Return the next slots, for people: the one that is due now, if there is one, and more."""
    found = due(rule, next_slot, now)
    slot = found.slot or found.next_slot
    return [slot, *islice(slots_after(rule, slot), number - 1)]


def next_after(rule: Rule, moment: datetime, grid: datetime | None = None) -> datetime:
    """Return the first slot after `moment`: see `slots_after`."""
    return next(slots_after(rule, moment, grid))


def slots_after(rule: Rule, moment: datetime, grid: datetime | None = None) -> Iterator[datetime]:
    """Yield the slots after `moment`; those of `every` lie on the grid through `grid` or itself.

    A grid that never meets the window of the day begins anew where that opens. Raises
    DeclarationError for a cron expression that never does.
    """
    if not rule.every:
        day = moment.astimezone(read_zone(rule.timezone)).date()
        for days in range(MOST_DAYS):
            times = times_of(rule.cron or "", rule.timezone, day + days * DAY)
            for slot in times[bisect_right(times, moment) :]:
                if is_open(rule.between, rule.timezone, slot):
                    yield slot
        message = f"no time of {rule.cron!r} lies between {rule.between}: change one of them"
        raise DeclarationError(message)
    step = timedelta(seconds=rule.every)
    slot = moment + step - (moment - (grid or moment)) % step
    for _ in range(MOST_DAYS * DAY // step):
        if is_open(rule.between, rule.timezone, slot):
            yield slot
        slot += step
    yield _opening(rule, moment + step)


def slot_before(rule: Rule, slot: datetime) -> datetime:
    """Return the slot before `slot`, which is one itself; of `every` one interval before."""
    if rule.every:
        return slot - timedelta(seconds=rule.every)
    span = timedelta(hours=1)
    while not (earlier := [*takewhile(slot.__gt__, slots_after(rule, slot - span))]):
        span *= 2
    return earlier[-1]


def _opening(rule: Rule, moment: datetime) -> datetime:
    """Return the first moment from `moment` on at which the window of the day is open."""
    while not is_open(rule.between, rule.timezone, moment):
        moment = moment.replace(second=0, microsecond=0) + MINUTE
    return moment
