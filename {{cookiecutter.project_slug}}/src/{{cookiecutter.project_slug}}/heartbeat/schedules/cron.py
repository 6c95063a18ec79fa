"""The times of a cron expression, day by day, with daylight saving time.

As in Debian's cron, an expression with a star in its minutes or hours follows local time: twice
through an hour that comes twice, and never through one that is left out. Any other one runs once
for each of its times: the first time, or as soon as what was left out is over. cronsim reads the
expression and knows its days; where clocks are set by half an hour, it would lose times.
"""

from bisect import bisect_left
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache

from cronsim import CronSim, CronSimError

from ..errors import ScheduleError
from .between import read_zone

DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
# cronsim would take one for seconds, too.
FIELDS = 5
_WORDS = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *"} | {
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


@dataclass(frozen=True, slots=True, eq=False)
class Cron:
    """An expression that was read: what cronsim made of it, and its times since midnight."""

    fields: CronSim
    times: list[timedelta]
    follows_local_time: bool

    def includes(self, day: date) -> bool:
        """Return whether the expression has times on that day."""
        return day.month in self.fields.months and self.fields.match_day(day)


@lru_cache(maxsize=1_000)
def read_cron(expression: str) -> Cron:
    """Read five fields, with names such as MON, or a word such as @daily.

    Raises ScheduleError for an invalid expression, and for one without times, such as 30 February.
    """
    text = _WORDS.get(expression.strip().lower(), expression)
    parts = text.split()
    try:
        fields = CronSim(text if len(parts) == FIELDS else "", datetime(2000, 1, 1, tzinfo=UTC))
        next(fields)
    except (CronSimError, StopIteration) as error:
        reason = str(error) or "It never comes"
        raise ScheduleError(
            f"{expression!r} is not a valid cron expression ({reason}): write "
            'minute, hour, day of the month, month and day of the week, such as "0 3 * * MON-FRI"'
        ) from error
    hours, minutes = sorted(fields.hours), sorted(fields.minutes)
    times = [timedelta(hours=hour, minutes=minute) for hour in hours for minute in minutes]
    return Cron(fields, times, "*" in (parts[0][0], parts[1][0]))


@lru_cache(maxsize=128)
def times_of(expression: str, zone: str, day: date) -> list[datetime]:
    """Return the times of the expression from the start of that day there to the next: in UTC.

    A day starts when local time first reaches its midnight, so each moment belongs to one day, also
    where local time is set past midnight: ahead, over a whole day as in Apia in 2011, or back.
    """
    cron = read_cron(expression)
    there = read_zone(zone)
    # A time that is left out belongs to the day that it is moved to.
    days = [that for that in (day - 2 * DAY, day - DAY, day) if cron.includes(that)]
    if not days:
        return []
    midnights = (datetime.combine(day + count * DAY, time(), there) for count in (-1, 0, 1))
    yesterday, start, end = map(_reaches, midnights)
    if end - start == start - yesterday == DAY:  # no clock is set
        return [start + time for time in cron.times] if day in days else []
    walls = (datetime.combine(that, time(), there) + clock for that in days for clock in cron.times)
    moments = {moment for wall in walls for moment in _moments(cron, wall)}
    return sorted(moment for moment in moments if start <= moment < end)


def _moments(cron: Cron, wall: datetime) -> tuple[datetime, ...]:
    """Return when a time of the expression comes: once, twice, or never if it is left out."""
    first, second = _readings(wall)
    if not cron.follows_local_time:
        return (_reaches(wall),)
    return (first, second) if first <= second else ()


def _reaches(wall: datetime) -> datetime:
    """Return when local time first shows `wall`, or the first minute after it if it is left out."""
    first, second = _readings(wall)
    if first <= second:
        return first
    minutes = range(int((first - second) / MINUTE) + 2)
    left_out = bisect_left(minutes, x=True, key=lambda count: _is_shown(wall + count * MINUTE))
    return _readings(wall + left_out * MINUTE)[0]


def _is_shown(wall: datetime) -> bool:
    first, second = _readings(wall)
    return first <= second


def _readings(wall: datetime) -> tuple[datetime, datetime]:
    """Return when local time shows `wall`, first and last; last before first if it never does."""
    return wall.replace(fold=0).astimezone(UTC), wall.replace(fold=1).astimezone(UTC)
