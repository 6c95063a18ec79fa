"""Windows of the day, such as 22:00-06:00, by the clocks of a time zone."""

import re
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from ..errors import DeclarationError

_TIME = r"([01]?\d|2[0-4]):([0-5]\d)"
MIDNIGHT = 24 * 60


def read_zone(name: str) -> ZoneInfo:
    """Return the zone of an IANA name. Raises DeclarationError for what is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        message = f'{name!r} is no IANA time zone: write one such as "Europe/Berlin", or "UTC"'
        raise DeclarationError(message) from error


@lru_cache(maxsize=1_000)
def read_between(text: str) -> tuple[int, int]:
    """Return when a window opens and closes, in minutes since midnight.

    It closes on the next day where it closes earlier than it opens. Raises DeclarationError.
    """
    if match := re.fullmatch(rf"\s*{_TIME}\s*-\s*{_TIME}\s*", text):
        hour, minute, last_hour, last_minute = map(int, match.groups())
        opens, closes = hour * 60 + minute, last_hour * 60 + last_minute
        if opens != closes and opens < MIDNIGHT >= closes:
            return opens, closes
    message = f'{text!r} is no window of the day: write when it opens and closes, as "22:00-06:00"'
    raise DeclarationError(message)


def is_open(between: str | None, zone: str, moment: datetime) -> bool:
    """Tell whether the clocks of the zone show a time within the window at that moment."""
    if between is None:
        return True
    opens, closes = read_between(between)
    wall = moment.astimezone(read_zone(zone))
    minutes = wall.hour * 60 + wall.minute
    if opens < closes:
        return opens <= minutes < closes
    return minutes < closes or opens <= minutes
