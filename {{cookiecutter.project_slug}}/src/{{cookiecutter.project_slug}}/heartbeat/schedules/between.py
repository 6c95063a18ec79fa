"""Daily windows, such as 22:00-06:00, in a time zone."""

import re
from datetime import datetime
from functools import cache, lru_cache
from importlib.resources import files
from zoneinfo import ZoneInfo

from ..errors import ScheduleError

_TIME = r"([01]?\d|2[0-4]):([0-5]\d)"
MIDNIGHT = 24 * 60


def read_zone(name: str) -> ZoneInfo:
    """Return the zone of an IANA name. Raises ScheduleError for any other name."""
    if name not in _zone_names():
        message = f'{name!r} is not an IANA time zone: write one such as "Europe/Berlin", or "UTC"'
        raise ScheduleError(message)
    return ZoneInfo(name)


@cache
def _zone_names() -> frozenset[str]:
    """Return the names of IANA's database, which are the same on each machine.

    ZoneInfo reads any file in the machine's folder of zones: `localtime` and `posixrules`, which
    mean another zone on each machine, copies below `posix/` and `right/`, and any spelling where
    the disk ignores case. `Factory` stands for a zone that is not set.
    """
    names = files("tzdata").joinpath("zones").read_text("utf-8").split()
    return frozenset(names) - {"Factory"}


@lru_cache(maxsize=1_000)
def read_between(text: str) -> tuple[int, int]:
    """Return when a window opens and closes, in minutes since midnight. Raises ScheduleError.

    If the second number is lower, the window closes on the next day.
    """
    if match := re.fullmatch(rf"\s*{_TIME}\s*-\s*{_TIME}\s*", text):
        hour, minute, last_hour, last_minute = map(int, match.groups())
        opens, closes = hour * 60 + minute, last_hour * 60 + last_minute
        if opens != closes and opens < MIDNIGHT >= closes:
            return opens, closes
    raise ScheduleError(
        f'{text!r} is not a valid daily window: write when it opens and closes, as "22:00-06:00"'
    )


def is_open(between: str | None, zone: str, moment: datetime) -> bool:
    """Return whether the local time of `moment` lies within the window."""
    if between is None:
        return True
    opens, closes = read_between(between)
    wall = moment.astimezone(read_zone(zone))
    minutes = wall.hour * 60 + wall.minute
    if opens < closes:
        return opens <= minutes < closes
    return minutes < closes or opens <= minutes
