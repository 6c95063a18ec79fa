"""The grid of `every`: which slot is due, how many were missed, and when the next one is.

The grid starts at the flow's first claim and moves in whole intervals from there, so that a long
run, a late beat or a restart never shifts it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

# A beat that comes before a slot waits for it, by up to this share of the interval and up to this
# many seconds, so that the slot is not lost if the scheduler calls a moment early.
EARLY_SHARE = 0.1
MAX_EARLY = 30.0

# The shortest interval of a cron expression, in seconds. EARLY_SHARE applies to it.
CRON_INTERVAL = 60

# The clocks of two machines may differ by this many seconds. A past time that lies further ahead
# proves that the clock was set back.
MAX_SKEW = 10.0


@dataclass(frozen=True, slots=True)
class Due:
    """The slot that is due, the number of missed slots before it, and the slot after it.

    If `slot` is None, none is due.
    """

    slot: datetime | None
    missed_slots: int
    next_slot: datetime


def latest_due(next_slot: datetime, interval: int, now: datetime) -> Due:
    """Return the latest slot that is due at `now`, and count those before it as missed."""
    if next_slot > now:
        return Due(None, 0, next_slot)
    step = timedelta(seconds=interval)
    passed = (now - next_slot) // step
    slot = next_slot + passed * step
    return Due(slot, passed, slot + step)


def is_ahead(moment: datetime, now: datetime) -> bool:
    """Return whether a past moment lies so far ahead that the clock must have been set back."""
    return moment - now > timedelta(seconds=MAX_SKEW)


def restarted_grid(last_slot: datetime, interval: int, now: datetime) -> datetime:
    """Return the first slot of a new grid after the clock was set back: now, but no old slot."""
    on_old_grid = (last_slot - now) % timedelta(seconds=interval) == timedelta(0)
    return now + timedelta(microseconds=on_old_grid)
