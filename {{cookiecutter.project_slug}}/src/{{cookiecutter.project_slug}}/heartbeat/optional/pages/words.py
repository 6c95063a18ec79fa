"""Times and durations in words."""

import re
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from ...durations import format_every
from ...errors import ScheduleError
from ...schedules.between import read_zone

__all__ = ["ago", "lasted", "schedule", "times"]

DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# Cron begins anew with each hour: other steps do not have equal intervals.
PARTS_OF_HOUR = {minutes for minutes in range(1, 31) if 60 % minutes == 0}
INTERVALS = {60: "every minute", 3_600: "every hour", 86_400: "every day"}
# After an action: by the value of `did` in the query, which has the numbers of flows.
NOTICES = {
    "paused": "The flow is paused.",
    "resumed": "The flow is resumed. Of the slots that passed meanwhile, at most one runs.",
    "saved": "The configuration is saved.",
    "requested": "The run is requested. This page follows it.",
    "pause-many": "Paused {0}.",
    "resume-many": "Resumed {0}. Of the slots that passed meanwhile, at most one of each runs.",
    "resume-everything": "Resumed the {0} that the pause of all flows had paused.",
    "run-many": "Requested a run of {0}: as workers are free, or with the next beat.",
}
NOTICES["run-failed"] = NOTICES["run-many"]
LEFT_OUT = " Left out {0}, which cannot be: its page says why."
_DID = re.compile(r"(?:^|&)did=([a-z-]+)(?:\.(\d{1,9})\.(\d{1,9}))?(?:&|$)")
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
# Two units are shown below this many of the larger one: "1 h 20 min", but "5 h".
FINE = 3
# Seconds have a decimal below this.
EXACT = 10


def ago(moment: datetime, now: datetime) -> str:
    """Return when a moment is, seen from `now`: "5 min ago", "in 2 h" or "now"."""
    seconds = round((moment - now).total_seconds())
    if not seconds:
        return "now"
    text = _rough(abs(seconds))
    return f"in {text}" if seconds > 0 else f"{text} ago"


def lasted(seconds: float | None) -> str:
    """Return a duration: "80 ms", "1.2 s" or "5 min"; empty for None."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < EXACT else _rough(round(seconds))


def times(moment: datetime, zone: Any, now: datetime, *, exact: bool = False) -> list[str]:
    """Return a moment in a zone and then in UTC, each with its zone; once if both are the same.

    The date is left out where it is that of `now`. An unknown zone counts as UTC. exact: with the
    seconds.
    """
    clock = "%H:%M:%S %Z" if exact else "%H:%M %Z"
    local = _in_zone(moment, zone)
    day = _in_zone(now, zone).date()
    shown = [local, *([] if local.tzname() == "UTC" else [moment.astimezone(UTC)])]
    return [f"{t:{clock}}" if t.date() == day else f"{t:%Y-%m-%d {clock}}" for t in shown]


def schedule(every: int | None, cron: str | None) -> str:
    """Return a schedule in words; a cron expression that is not a simple one stays as it is."""
    if cron is None:
        if not isinstance(every, int):
            return "invalid"
        return INTERVALS.get(every) or f"every {format_every(every)}"
    match = re.fullmatch(r"\*(?:/(\d\d?))? \* \* \* \*", cron)
    if match and int(match[1] or 1) in PARTS_OF_HOUR:
        return f"every {match[1]} min" if match[1] else "every minute"
    if match := re.fullmatch(r"(\d\d?) \* \* \* \*", cron):
        return f"every hour at :{match[1]:0>2}"
    if match := re.fullmatch(r"(\d\d?) (\d\d?) \* \* (\*|[0-7]|1-5)", cron):
        days = {"*": "every day", "1-5": "Monday to Friday"}.get(match[3])
        return f"{days or f'every {DAYS[int(match[3])]}'} at {match[2]:0>2}:{match[1]:0>2}"
    return f"cron {cron}"


def notice(query: str) -> str:
    """Return what an action has done, for the query string of the page that follows it."""
    match = _DID.search(query)
    if match is None or match[1] not in NOTICES:
        return ""
    done, left_out = int(match[2] or 0), int(match[3] or 0)
    text = NOTICES[match[1]].format(_flows(done))
    return text + LEFT_OUT.format(_flows(left_out)) if left_out else text


def _flows(count: int) -> str:
    return "1 flow" if count == 1 else f"{count:,} flows"


def _in_zone(moment: datetime, zone: Any) -> datetime:
    try:
        return moment.astimezone(read_zone(zone))
    except (ScheduleError, OverflowError):
        return moment.astimezone(UTC)


def _rough(seconds: int) -> str:
    for (unit, size), (smaller, smaller_size) in pairwise(_UNITS):
        if seconds >= size:
            count, rest = divmod(seconds, size)
            part = rest // smaller_size if count < FINE else 0
            return f"{count} {unit} {part} {smaller}" if part else f"{count} {unit}"
    return f"{seconds} s"
