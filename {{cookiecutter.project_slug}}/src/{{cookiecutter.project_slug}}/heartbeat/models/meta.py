"""The engine's own MetaData and column types: one of the places that know the dialect.

Times go in and come out as aware UTC with microseconds on every database.
"""

import math
from datetime import UTC, datetime
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from ..json_values import parse_json
from ..schedules.rule import LAST_SLOT
from .stored import Stored, StoredText, Unreadable
from .text import MYSQL, UNICODE, UTF_8, NameText, codec_of

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
VERSION_TABLE = "data_flow_version"


class UTCDateTime(TypeDecorator[datetime]):
    """An aware time: kept as UTC, to the microsecond; a naive one is refused."""

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
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class StoredTime(StoredText, UTCDateTime):
    """A time of the engine's own tables."""

    cache_ok = True
    kinds = (datetime,)

    def read(self, value: Any) -> datetime:
        """Return the stored time, aware, in UTC."""
        moment = datetime.fromisoformat(value.strip('"')) if isinstance(value, str) else value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Json(StoredText, TypeDecorator[Any]):
    """JSON, whose null is stored as NULL."""

    impl = sa.JSON(none_as_null=True)
    cache_ok = True
    kinds = (dict, list, str, int, float)

    def read(self, value: Any) -> Any:
        """Return the value that the JSON stands for."""
        if isinstance(value, (int, float)):  # SQLite stores a number for its text
            return value
        try:
            return parse_json(value)
        except (ValueError, RecursionError) as error:
            return Unreadable(str(error))


class Flag(Stored, TypeDecorator[bool]):
    """A truth value."""

    impl = sa.Boolean
    cache_ok = True
    kinds = (bool,)

    def read(self, value: Any) -> bool:
        """Return the truth value: of other numbers, SQL and Python think differently."""
        return {0: False, 1: True}[value]


class Seconds(Stored, TypeDecorator[float]):
    """A duration to the microsecond, for which a plain FLOAT of MySQL has too few bits."""

    impl = sa.Double
    cache_ok = True
    kinds = (float,)

    def read(self, value: Any) -> float:
        """Return the duration, which JSON has a form of."""
        if not math.isfinite(value):
            raise ValueError
        return float(value)


# SQLite numbers rows by itself in a column declared INTEGER only.
Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Name = NameText(200)
# A word of the engine's own, which its constraints name.
ShortString = sa.String(20).with_variant(mysql.VARCHAR(20, **UNICODE), *MYSQL)
# On SQLite, a text that begins with a letter is greater, too.
END_OF_TIME = sa.literal(LAST_SLOT, UTCDateTime())


class EngineBase(DeclarativeBase):
    """The base of the engine's models; its tables have their own migration chain."""

    metadata = sa.MetaData(naming_convention=NAMING)

    id: Mapped[int] = mapped_column(Id, primary_key=True, sort_order=-1)


def _now() -> datetime:
    return datetime.now(UTC)


class TimestampMixin:
    """What a row keeps of itself: when it was made, and when it was changed last."""

    created_at: Mapped[datetime] = mapped_column(StoredTime, default=_now)
    updated_at: Mapped[datetime] = mapped_column(StoredTime, default=_now, onupdate=_now)


def time_or_none(value: object) -> datetime | None:
    """Return a stored time; None if there is none, or if it cannot be read."""
    return value if isinstance(value, datetime) else None


def has_come(time: Any, now: sa.ColumnElement[datetime]) -> sa.ColumnElement[bool]:
    """Return the condition of times up to `now`, and of those that never come.

    Somebody must read these rows to find that they cannot be read.
    """
    return sa.or_(time <= now, time > END_OF_TIME)


def table_of(model: type[EngineBase]) -> sa.Table:
    """Return a model's table, for statements that must not cost what the ORM costs."""
    return cast("sa.Table", model.__table__)


def is_engine_table(name: str | None) -> bool:
    """Return whether a table is the engine's, so that each chain sees only its own tables."""
    return name == VERSION_TABLE or name in EngineBase.metadata.tables


def text_problem(connection: sa.Connection) -> str | None:
    """Return why the engine's tables cannot hold any Unicode, and what to do; None if they can."""
    codec = codec_of(connection.dialect)
    if codec != UTF_8:
        return (
            f"text is stored as {codec}, and other characters as escapes: use a database whose "
            "encoding is UTF-8, and no other character set in sqlalchemy.url"
        )
    if connection.dialect.name not in MYSQL:
        return None
    names = ("table_schema", "table_name", "column_name", "character_set_name")
    columns = sa.table("columns", *map(sa.column, names), schema="information_schema").c
    limited = sa.select(columns.table_name, columns.column_name).where(
        columns.table_schema == sa.func.database(),
        columns.table_name.in_(EngineBase.metadata.tables),
        columns.character_set_name != UNICODE["charset"],
    )
    found = ", ".join(sorted(f"{table}.{name}" for table, name in connection.execute(limited)))
    if not found:
        return None
    return f"not every character can be stored in {found}: give the columns the charset utf8mb4"


class seconds_before(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function it is
    """SQL: the moment that lies a number of seconds before a time, both of them expressions."""

    type = UTCDateTime()
    inherit_cache = True
    name = "seconds_before"


_ON_MYSQL = "({moment} - INTERVAL (({seconds}) * 1000000) MICROSECOND)"
_SECONDS_BEFORE = {
    "postgresql": "({moment} - ({seconds}) * interval '1 second')",
    "mysql": _ON_MYSQL,
    "mariadb": _ON_MYSQL,
    # The text that SQLAlchemy stores, so that both sides compare as text; whole milliseconds.
    "sqlite": "(strftime('%Y-%m-%d %H:%M:%f', {moment}, (-({seconds})) || ' seconds') || '000')",
}


@compiles(seconds_before)
def _compile(element: Any, compiler: SQLCompiler, **options: Any) -> str:
    moment, seconds = (compiler.process(clause, **options) for clause in element.clauses)
    return _SECONDS_BEFORE[compiler.dialect.name].format(moment=moment, seconds=seconds)


def is_postgresql(database: sa.Connection | sa.Engine) -> bool:
    """Return whether one statement may write two tables, and take arrays as parameters."""
    return database.dialect.name == "postgresql"
