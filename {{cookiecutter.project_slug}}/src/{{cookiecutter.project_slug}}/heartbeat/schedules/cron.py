"""The times of a cron expression, day by day, also where clocks are set twice a year.

As Debian's cron has it: what begins with a star in its minutes or hours goes by the clock on the
wall, twice through an hour that comes twice, and never through one that is left out. All else runs
once for each of its times: the first time, or as soon as what was left out is over. cronsim reads
the expression and knows its days; where clocks are set by half an hour, it would lose times.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache

from cronsim import CronSim, CronSimError

from ..errors import DeclarationError
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
    by_the_wall: bool


@lru_cache(maxsize=1_000)
def read_cron(expression: str) -> Cron:
    """Read five fields, with names such as MON, or a word such as @daily.

    Raises DeclarationError for what cannot be read, and for what never comes, as 30 February.
    """
    text = _WORDS.get(expression.strip().lower(), expression)
    parts = text.split()
    try:
        fields = CronSim(text if len(parts) == FIELDS else "", datetime(2000, 1, 1, tzinfo=UTC))
        next(fields)
    except (CronSimError, StopIteration) as error:
        raise DeclarationError(
            f"{expression!r} is no cron expression ({str(error) or 'It never comes'}): write "
            'minute, hour, day of the month, month, day of the week, such as "0 3 * * MON-FRI"'
        ) from error
    hours, minutes = sorted(fields.hours), sorted(fields.minutes)
    times = [timedelta(hours=hour, minutes=minute) for hour in hours for minute in minutes]
    return Cron(fields, times, "*" in (parts[0][0], parts[1][0]))


@lru_cache(maxsize=128)
def times_of(expression: str, zone: str, day: date) -> list[datetime]:
    """Return the times that the expression has on that day there: in order, in UTC."""
    cron = read_cron(expression)
    if day.month not in cron.fields.months or not cron.fields.match_day(day):
        return []
    midnight = datetime.combine(day, time(), read_zone(zone))
    # Added to the clock on the wall, whatever happens in between.
    begin, end = midnight.astimezone(UTC), (midnight + DAY).astimezone(UTC)
    if end - begin == DAY:
        return [begin + time for time in cron.times]
    return sorted({moment for time in cron.times for moment in _moments(cron, midnight + time)})


def _moments(cron: Cron, wall: datetime) -> list[datetime]:
    """Return when that runs which is to run as the clock on the wall shows `wall`."""
    first, second = (wall.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    if first <= second:
        return [first, second] if cron.by_the_wall else [first]
    # Left out. What does not go by the wall runs at the first minute after it.
    return [] if cron.by_the_wall else _moments(cron, wall + MINUTE)
