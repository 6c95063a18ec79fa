"""The grid of `every`: which slot is due, how many were missed, and when the next one is.

The grid starts at the flow's first claim and moves in whole intervals from there, so that a long
run, a late beat or a restart never shifts it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

# A slot this share of its interval ahead, and at most so many seconds, counts as due: a scheduler
# that calls a moment early must not lose it.
EARLY_SHARE = 0.1
EARLY_MOST = 30.0

# The shortest interval of a cron expression, in seconds: what its tolerance is reckoned from.
CRON_INTERVAL = 60

# A last slot further ahead than that, besides, is no matter of two machines' clocks.
SKEW_MOST = 10.0


@dataclass(frozen=True, slots=True)
class Due:
    """The slot to run now, how many before it nobody ran, and the slot after it.

    Without a `slot` there is nothing to run: the flow only moves on.
    """

    slot: datetime | None
    missed_slots: int
    next_slot: datetime


def early_tolerance(interval: int) -> timedelta:
    """Return how far ahead a slot of `interval` seconds may lie and still count as due."""
    return timedelta(seconds=min(interval * EARLY_SHARE, EARLY_MOST))


def latest_due(next_slot: datetime, interval: int, now: datetime) -> Due:
    """Return the latest slot that is due at `now`, where `next_slot` is known to be due.

    Those before it are counted: this is the rule `catch_up="once"`.
    """
    step = timedelta(seconds=interval)
    passed = max((now + early_tolerance(interval) - next_slot) // step, 0)
    slot = next_slot + passed * step
    return Due(slot, passed, slot + step)


def rescheduled(last_slot: datetime | None, interval: int, now: datetime) -> datetime:
    """Return the next slot after the interval was changed: one interval after the last slot.

    If that has passed, or no slot was ever claimed, the flow is due now.
    """
    if last_slot is None:
        return now
    return max(last_slot + timedelta(seconds=interval), now)


def is_ahead(last_slot: datetime, now: datetime) -> bool:
    """Tell whether a slot that was claimed lies so far ahead that the clock was set back."""
    return last_slot - now > timedelta(seconds=SKEW_MOST)


def anchored_anew(last_slot: datetime, interval: int, now: datetime) -> datetime:
    """Return where a grid begins again after the clock was set back: now, but on no old slot."""
    on_old_grid = (last_slot - now) % timedelta(seconds=interval) == timedelta(0)
    return now + timedelta(microseconds=on_old_grid)
