"""How early a beat may come, and how far the clocks of two machines may differ."""

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


def is_ahead(moment: datetime, now: datetime) -> bool:
    """Return whether a past moment lies so far ahead that the clock must have been set back."""
    return moment - now > timedelta(seconds=MAX_SKEW)
