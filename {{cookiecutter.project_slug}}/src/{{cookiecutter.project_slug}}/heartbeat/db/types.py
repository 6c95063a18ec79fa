"""Column types of the engine's tables.

Times are aware, in UTC, and keep their microseconds on every database. An invalid value is read as
Unreadable.
"""

import math
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator

from ..json_values import parse_json
from ..schedules.rule import LAST_SLOT
from .stored import Stored, StoredText, Unreadable, show
from .text import MYSQL, AnyText, NameText


class UTCDateTime(TypeDecorator[datetime]):
    """An aware time, stored in UTC with microseconds; a naive one is refused."""

    impl = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), *MYSQL)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Turn `value` into UTC; without its zone where the database keeps none."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone: use datetime.now(UTC) or Clock.now()")
        value = value.astimezone(UTC)
        return value if dialect.name == "postgresql" else value.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _dialect: object) -> datetime | None:
        """Return the stored time, aware, in UTC."""
        return None if value is None else _in_utc(value)


def _in_utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


class StoredTime(StoredText, UTCDateTime):
    """A time of the engine's own tables."""

    cache_ok = True

    def read(self, value: Any) -> datetime | Unreadable:
        """Return the stored time, aware, in UTC."""
        return _in_utc(
            datetime.fromisoformat(value.strip('"')) if isinstance(value, str) else value
        )


class SlotTime(StoredTime):
    """The time of a slot; one after LAST_SLOT is invalid."""

    cache_ok = True

    def read(self, value: Any) -> datetime | Unreadable:
        """Return the slot."""
        slot = super().read(value)
        return slot if isinstance(slot, datetime) and slot <= LAST_SLOT else Unreadable(show(slot))


class Json(StoredText, TypeDecorator[Any]):
    """JSON, whose null is stored as NULL."""

    impl = sa.JSON(none_as_null=True)
    cache_ok = True

    def read(self, value: Any) -> Any:
        """Parse the JSON."""
        if isinstance(value, (int, float)):  # SQLite stores the text of a number as the number
            return value
        try:
            return parse_json(value)
        except (ValueError, RecursionError) as error:
            return Unreadable(str(error))


class JsonObject(Json):
    """A JSON object."""

    cache_ok = True

    def read(self, value: Any) -> Any:
        """Return the object, or None for JSON's null."""
        found = super().read(value)
        return found if found is None or isinstance(found, dict) else Unreadable(show(found))


class Integer(Stored, TypeDecorator[int]):
    """A whole number."""

    impl = sa.Integer
    cache_ok = True

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        """Return the type of the other operand: PostgreSQL would round 0.1 as an Integer."""
        return self.impl_instance.coerce_compared_value(op, value)

    def read(self, value: Any) -> int:
        """Return the number: SQLite stores any value in such a column."""
        if not isinstance(value, int):
            raise TypeError
        return value


class BigInteger(Integer):
    """A whole number up to 2**63 - 1."""

    impl = sa.BigInteger
    cache_ok = True


class Interval(Integer):
    """The seconds between slots. An invalid value is kept: the flow's rule reports it."""

    cache_ok = True

    def read(self, value: Any) -> Any:
        """Return whatever is stored."""
        return str(value) if isinstance(value, Unreadable) else value


class Flag(Stored, TypeDecorator[bool]):
    """A truth value."""

    impl = sa.Boolean
    cache_ok = True

    def read(self, value: Any) -> bool:
        """Return the truth value: SQL and Python would treat other numbers differently."""
        return {0: False, 1: True}[value]


class Seconds(Stored, TypeDecorator[float]):
    """A duration to the microsecond, for which a plain FLOAT of MySQL has too few bits."""

    impl = sa.Double
    cache_ok = True

    def read(self, value: Any) -> float:
        """Return the duration. Infinity and NaN are invalid, since JSON lacks them."""
        if not math.isfinite(value):
            raise ValueError
        return float(value)


# SQLite numbers rows by itself in a column declared INTEGER only.
Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Name = NameText(200)
# A word of the engine itself, such as a status.
ShortString = AnyText(20)
