"""Durations as they are written in settings: "30s", "5m", "2h", "1d" or plain seconds."""

import re
from datetime import timedelta

from .errors import ScheduleError

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_LONGEST = 2**31 - 1


def parse_every(value: object) -> int:
    """Return an interval in whole seconds from "30s", "5m", "2h", "1d", seconds or a timedelta.

    Raises ScheduleError for anything else, and for zero or less.
    """
    seconds = 0.0
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif match := re.fullmatch(r"\s*([0-9]{1,10})\s*([smhd]?)\s*", str(value)):
        seconds = int(match[1]) * _SECONDS[match[2]]
    if seconds != int(seconds) or not 0 < seconds <= _LONGEST:
        raise ScheduleError(
            f"{value!r} is not a valid interval: write whole seconds above zero such as "
            '"30s", "5m", "2h" or "1d"'
        )
    return int(seconds)


def format_every(seconds: int) -> str:
    """Return an interval as `parse_every` reads it: 300 is "5m", 90 is "90s"."""
    for unit in ("d", "h", "m"):
        if isinstance(seconds, int) and seconds % _SECONDS[unit] == 0:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"
