"""How early a beat may come, and how far the clocks of two machines may differ."""

from datetime import datetime, timedelta

# A beat may come this share of the interval before a slot, at most these seconds, and waits
# for it then: a scheduler that calls a moment early must not lose it.
EARLY_SHARE = 0.1
MAX_EARLY = 30.0

# The shortest interval of a cron expression, in seconds, which its tolerance is a share of.
CRON_INTERVAL = 60

# The clocks of two machines may differ by these seconds. What lies further ahead proves that the
# clock was set back.
MAX_SKEW = 10.0


def is_ahead(moment: datetime, now: datetime) -> bool:
    """Return whether a past moment lies so far ahead that the clock must have been set back."""
    return moment - now > timedelta(seconds=MAX_SKEW)
