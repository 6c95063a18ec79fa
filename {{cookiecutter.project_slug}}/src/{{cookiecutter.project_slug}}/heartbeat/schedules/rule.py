"""A flow's rule: which slot is due, how many were missed, and which ones are next."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice, takewhile
from typing import Literal

from ..durations import format_every
from ..errors import ScheduleError
from .between import is_open, read_zone
from .cron import DAY, MINUTE, times_of
from .every import Due, latest_due

MOMENT = timedelta.resolution
# How far apart two slots may lie: 29 February is on each day of the week within 40 years.
MAX_GAP = 41 * 366 * DAY
# The last slots lie shortly before the end of the calendar, so that any zone can show them.
LAST_DAY = date.max - 2 * DAY
LAST_SLOT = datetime.combine(LAST_DAY, time(), UTC)
# After this many missed slots, half a year of minutes, half of the rest is skipped without
# counting.
MAX_COUNTED = 250_000


@dataclass(frozen=True, slots=True)
class Rule:
    """When a flow is due: `every` some seconds, or at the times of `cron` in `timezone`.

    between: the daily window, in `timezone`. A time outside it is not a slot, and not missed.
    catch_up: which of several slots that have passed run. "once" runs the latest; "skip" does so if
        it is at most `grace` seconds old (by default one interval); "all" runs each.
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
    """Return which of the slots from `next_slot` on is due at `now`, and the one after it.

    The `first` claim of an `every` flow starts its grid, if the daily window is open. Raises
    ScheduleError if there is no next slot before the year 10000.
    """
    if rule.every and first and next_slot <= now and is_open(rule.between, rule.timezone, now):
        next_slot = now
    try:
        if rule.catch_up != "all" and rule.every and rule.between is None:
            found = latest_due(next_slot, rule.every, now)
        else:
            found = _count_due(rule, next_slot, now)
    except OverflowError:
        raise _no_slot_left(rule) from None
    if rule.catch_up == "skip" and found.slot and now - found.slot > _grace(rule, found.slot):
        return Due(None, found.missed_slots + 1, found.next_slot)
    return found


def _count_due(rule: Rule, next_slot: datetime, now: datetime) -> Due:
    """Return the slot that is due, by counting: the latest one, or with "all" the oldest one."""
    slot = next_after(rule, next_slot - MOMENT, next_slot)
    if slot > now:
        return Due(None, 0, slot)
    later = slots_after(rule, slot)
    following = _next_of(rule, later)
    if rule.catch_up == "all":
        return Due(slot, 0, following)
    missed_slots = 0
    while following <= now:
        slot = following
        missed_slots += 1
        if missed_slots % MAX_COUNTED == 0:
            later = slots_after(rule, now - (now - slot) / 2, slot)
        following = _next_of(rule, later)
    return Due(slot, missed_slots, following)


def _grace(rule: Rule, slot: datetime) -> timedelta:
    """Return how old a slot may be that `catch_up="skip"` runs."""
    if rule.grace:
        return timedelta(seconds=rule.grace)
    return max(slot - slot_before(rule, slot), MINUTE)


def first_slot(rule: Rule, now: datetime, start: Literal["now", "next"] = "now") -> datetime:
    """Return the first slot of a new flow. `start` is for `every`: at once, or in an interval."""
    if not rule.every:
        return next_after(rule, now)
    return _opening(rule, now + timedelta(seconds=rule.every if start == "next" else 0))


def rescheduled(rule: Rule, last_slot: datetime | None, now: datetime) -> datetime:
    """Return the next slot for a changed rule: for `every`, one interval after the last slot.

    It is never in the past.
    """
    if not rule.every:
        return next_after(rule, now)
    due_at = last_slot + timedelta(seconds=rule.every) if last_slot else now
    return _opening(rule, max(due_at, now))


def next_slots(rule: Rule, next_slot: datetime, now: datetime, number: int = 5) -> list[datetime]:
    """Return the next slots to show: the one that is due now, if there is one, and later ones."""
    found = due(rule, next_slot, now)
    slot = found.slot or found.next_slot
    return [slot, *islice(slots_after(rule, slot), number - 1)]


def next_after(rule: Rule, moment: datetime, grid: datetime | None = None) -> datetime:
    """Return the first slot after `moment`: see `slots_after`.

    Raises ScheduleError if there is none before the year 10000.
    """
    return _next_of(rule, slots_after(rule, moment, grid))


def slots_after(rule: Rule, moment: datetime, grid: datetime | None = None) -> Iterator[datetime]:
    """Yield the slots after `moment` in order, until the end of the calendar.

    Slots of `every` lie on the grid through `grid`, or through `moment`. A grid without a slot in
    the daily window begins again when the window opens. Raises ScheduleError for a cron expression
    without a time in the window.
    """
    return _cron_slots(rule, moment) if not rule.every else _grid_slots(rule, moment, grid)


def _cron_slots(rule: Rule, moment: datetime) -> Iterator[datetime]:
    zone = read_zone(rule.timezone)
    day = last = min(moment, LAST_SLOT).astimezone(zone).date()
    while day < LAST_DAY:
        times = times_of(rule.cron or "", rule.timezone, day)
        for slot in times[bisect_right(times, moment) :]:
            if is_open(rule.between, rule.timezone, slot):
                yield slot
                last = day
        if day - last > MAX_GAP:
            message = f"no time of {rule.cron!r} lies between {rule.between}: change one of them"
            raise ScheduleError(message)
        day += DAY


def _grid_slots(rule: Rule, moment: datetime, grid: datetime | None) -> Iterator[datetime]:
    step = timedelta(seconds=rule.every or 0)
    last = moment
    slot = moment - (moment - (grid or moment)) % step
    while LAST_SLOT - slot > step:
        slot += step
        if slot - last > MAX_GAP:
            slot = _opening(rule, last + step)
        if is_open(rule.between, rule.timezone, slot):
            yield slot
            last = slot


def _next_of(rule: Rule, slots: Iterator[datetime]) -> datetime:
    if slot := next(slots, None):
        return slot
    raise _no_slot_left(rule)


def _no_slot_left(rule: Rule) -> ScheduleError:
    return ScheduleError(f"{rule} has no slot before the year 10000: choose another schedule")


def slot_before(rule: Rule, slot: datetime) -> datetime:
    """Return the slot before `slot`; for `every`, the time one interval before."""
    if rule.every:
        return slot - timedelta(seconds=rule.every)
    span = timedelta(hours=1)
    while not (earlier := [*takewhile(slot.__gt__, slots_after(rule, slot - span))]):
        span *= 2
    return earlier[-1]


def _opening(rule: Rule, moment: datetime) -> datetime:
    """Return `moment`, or when the daily window opens next if it is closed then."""
    while not is_open(rule.between, rule.timezone, moment):
        moment = moment.replace(second=0, microsecond=0) + MINUTE
    return moment
