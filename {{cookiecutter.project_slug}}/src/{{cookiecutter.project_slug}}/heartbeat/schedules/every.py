"""The grid of `every`: which slot is due, how many were missed, and when the next one is.

The grid starts at the flow's first claim and moves in whole intervals from there, so that a long
run, a late beat or a restart never shifts it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

# A beat may come this share of the interval before a slot, at most this many seconds, and waits
# for it: the slot must not be lost if the scheduler calls a moment early.
EARLY_SHARE = 0.1
MAX_EARLY = 30.0

# The shortest interval of a cron expression, in seconds, which its tolerance is a share of.
CRON_INTERVAL = 60

# The clocks of two machines may differ by this many seconds. A time further ahead proves that the
# clock was set back.
MAX_SKEW = 10.0


@dataclass(frozen=True, slots=True)
class Due:
    """The slot to run now, how many slots before it were missed, and the slot after it.

    Without a `slot` there is nothing to run, and the next slot is set.
    """

    slot: datetime | None
    missed_slots: int
    next_slot: datetime


def latest_due(next_slot: datetime, interval: int, now: datetime) -> Due:
    """Return the latest slot that is due at `now`, if `next_slot` is.

    Those before it are counted: this is the rule `catch_up="once"`.
    """
    if next_slot > now:
        return Due(None, 0, next_slot)
    step = timedelta(seconds=interval)
    passed = (now - next_slot) // step
    slot = next_slot + passed * step
    return Due(slot, passed, slot + step)


def rescheduled(last_slot: datetime | None, interval: int, now: datetime) -> datetime:
    """Return the next slot after the interval was changed: one interval after the last slot.

    If that has passed, or no slot was ever claimed, the flow is due now.
    """
    if last_slot is None:
        return now
    return max(last_slot + timedelta(seconds=interval), now)


def is_ahead(moment: datetime, now: datetime) -> bool:
    """Return whether a past moment lies so far ahead that the clock must have been set back."""
    return moment - now > timedelta(seconds=MAX_SKEW)


def restarted_grid(last_slot: datetime, interval: int, now: datetime) -> datetime:
    """Return where a grid begins again after the clock was set back: now, but on no old slot."""
    on_old_grid = (last_slot - now) % timedelta(seconds=interval) == timedelta(0)
    return now + timedelta(microseconds=on_old_grid)
