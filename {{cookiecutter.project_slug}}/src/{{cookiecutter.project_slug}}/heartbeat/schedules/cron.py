"""The times of a cron expression, day by day, with daylight saving time.

As in Debian's cron, an expression with a star in its minutes or hours follows local time: its times
come twice in an hour that is repeated, and not at all in an hour that is skipped. Each time of any
other expression comes once: when it is first shown, or right after the skipped hour. cronsim parses
the expression and knows its days, but would lose times where a clock is set by half an hour.
"""

from bisect import bisect_left
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache

from cronsim import CronSim, CronSimError

from ..errors import ScheduleError
from .between import read_zone

DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
# cronsim also accepts a sixth field, for seconds.
FIELDS = 5
_WORDS = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *"} | {
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


@dataclass(frozen=True, slots=True, eq=False)
class Cron:
    """A parsed expression. `times` are the times of day, counted from midnight."""

    fields: CronSim
    times: list[timedelta]
    follows_local_time: bool

    def includes(self, day: date) -> bool:
        """Return whether the expression has times on that day."""
        return day.month in self.fields.months and self.fields.match_day(day)


@lru_cache(maxsize=1_000)
def read_cron(expression: str) -> Cron:
    """Parse five fields, with names such as MON, or a word such as @daily.

    Raises ScheduleError for an invalid expression, and for one that never comes (30 February).
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
    """Return the times of the expression on a day of the zone, in UTC.

    The day begins when local time first reaches its midnight, so that each moment belongs to one
    day, even if the clock is set across midnight, or over a whole day as in Apia in 2011.
    """
    cron = read_cron(expression)
    tz = read_zone(zone)
    # A time of an earlier day that is skipped may be moved to this day.
    days = [that for that in (day - 2 * DAY, day - DAY, day) if cron.includes(that)]
    if not days:
        return []
    midnights = (datetime.combine(day + count * DAY, time(), tz) for count in (-1, 0, 1))
    yesterday, start, end = map(_reaches, midnights)
    if end - start == start - yesterday == DAY:  # no clock is set
        return [start + time for time in cron.times] if day in days else []
    walls = (datetime.combine(that, time(), tz) + clock for that in days for clock in cron.times)
    moments = {moment for wall in walls for moment in _moments(cron, wall)}
    return sorted(moment for moment in moments if start <= moment < end)


def _moments(cron: Cron, wall: datetime) -> tuple[datetime, ...]:
    """Return when a local time of the expression comes: once, twice, or never if it is skipped."""
    if not cron.follows_local_time:
        return (_reaches(wall),)
    return _readings(wall) if _is_shown(wall) else ()


def _reaches(wall: datetime) -> datetime:
    """Return when local time first shows `wall`, or the first minute after it if it is skipped."""
    first, second = _readings(wall)
    if _is_shown(wall):
        return first
    minutes = range(int((first - second) / MINUTE) + 2)
    skipped = bisect_left(minutes, x=True, key=lambda count: _is_shown(wall + count * MINUTE))
    return _readings(wall + skipped * MINUTE)[0]


def _is_shown(wall: datetime) -> bool:
    first, second = _readings(wall)
    return first <= second


def _readings(wall: datetime) -> tuple[datetime, datetime]:
    """Return the first and the last moment of a local time, in reverse order if it is skipped."""
    return wall.replace(fold=0).astimezone(UTC), wall.replace(fold=1).astimezone(UTC)
