"""A plain reference for schedules: it visits each minute, and compares the local time.

It shares nothing with the engine but what a rule says. It is slow, and that is its merit.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
LOWEST = (0, 0, 1, 1, 0)
HIGHEST = (59, 23, 31, 12, 7)
NAMES = {
    3: ["", "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    4: ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
}
WORDS = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@weekly": "0 0 * * 0"}


def cron_times(
    crons: Iterable[str], zone: str, since: datetime, until: datetime
) -> dict[str, list[datetime]]:
    """Give when Debian's cron would run each: from `since`, a whole minute, to before `until`.

    What begins with a star in its minutes or hours runs whenever the wall shows its time. Anything
    else runs when the wall first comes to its time, or past it in a leap.
    """
    jobs = [Job(cron) for cron in crons]
    there = ZoneInfo(zone)
    reached = since.astimezone(there).replace(tzinfo=None) - MINUTE
    for now in each(since, until, MINUTE):
        wall = now.astimezone(there).replace(tzinfo=None)
        passed = list(each(reached + MINUTE, wall + MINUTE, MINUTE))
        reached = max(reached, wall)
        for job in jobs:
            # All but a few minutes of a year pass one by one.
            walls = [wall] if job.by_the_wall else passed
            if job.matches(wall) if walls == [wall] else any(map(job.matches, walls)):
                job.times.append(now)
    return {job.cron: job.times for job in jobs}


class Job:
    """A line of a crontab, and when it runs."""

    def __init__(self, cron: str) -> None:
        parts = WORDS.get(cron, cron).split()
        self.cron, self.times = cron, list[datetime]()
        self.fields = [read_field(part, at) for at, part in enumerate(parts)]
        self.by_the_wall = "*" in (parts[0][0], parts[1][0])
        self.either_day = "*" not in (parts[2][0], parts[4][0])

    def matches(self, wall: datetime) -> bool:
        """Return whether a clock on the wall shows one of its times."""
        minutes, hours, days, months, weekdays = self.fields
        if not (wall.minute in minutes and wall.hour in hours and wall.month in months):
            return False
        both = wall.day in days, bool({wall.isoweekday(), wall.isoweekday() % 7} & weekdays)
        return any(both) if self.either_day else all(both)


def shows(between: str | None, zone: str, moment: datetime) -> bool:
    """Return whether the wall shows a time within the window."""
    opens, _, closes = (between or "").partition("-")
    wall = moment.astimezone(ZoneInfo(zone)).strftime("%H:%M")
    if opens < closes:
        return opens <= wall < closes
    return between is None or wall < closes or opens <= wall


def each(start: datetime, end: datetime, step: timedelta) -> Iterator[datetime]:
    """Yield `start`, and so on until before `end`."""
    while start < end:
        yield start
        start += step


def read_field(text: str, at: int) -> set[int]:
    """Read one of the five fields of a cron expression."""
    values: set[int] = set()
    for term in text.split(","):
        span, _, step = term.partition("/")
        low, _, high = span.partition("-")
        first = LOWEST[at] if low == "*" else number(low, at)
        last = number(high, at) if high else first
        if low == "*" or (step and not high):
            last = HIGHEST[at]
        values |= set(range(first, last + 1, int(step or 1)))
    return values


def number(text: str, at: int) -> int:
    """Read a number or a name."""
    return int(text) if text.isdigit() else NAMES[at].index(text)
