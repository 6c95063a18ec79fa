"""The engine's own MetaData and column types: one of the two places that know the dialect.

Times go in and come out as aware UTC with microseconds on every database.
"""

from datetime import UTC, datetime
from functools import cache
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

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

    impl = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
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


# SQLite numbers rows by itself in a column declared INTEGER only.
Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
# Names and words compare byte by byte everywhere; MySQL's usual collation ignores case, also in
# what a CHECK allows.
Name = sa.String(200).with_variant(mysql.VARCHAR(200, collation="utf8mb4_bin"), "mysql", "mariadb")
Word = sa.String(20).with_variant(mysql.VARCHAR(20, collation="utf8mb4_bin"), "mysql", "mariadb")
Json = sa.JSON(none_as_null=True)
# A plain FLOAT has 24 bits on MySQL: too few for the seconds of a day to the microsecond.
Seconds: sa.Double[float] = sa.Double()


class EngineBase(DeclarativeBase):
    """The base of the engine's models; its tables have their own migration chain."""

    metadata = sa.MetaData(naming_convention=NAMING)

    id: Mapped[int] = mapped_column(Id, primary_key=True, sort_order=-1)


def _now() -> datetime:
    return datetime.now(UTC)


class Dated:
    """What a row keeps of itself: when it was made, and when it was changed last."""

    created_at: Mapped[datetime] = mapped_column(UTCDateTime, default=_now)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime, default=_now, onupdate=_now)


def table_of(model: type[EngineBase]) -> sa.Table:
    """Return a model's table, for statements that must not cost what the ORM costs."""
    return cast("sa.Table", model.__table__)


def is_engine_table(name: str | None) -> bool:
    """Tell whether a table belongs to the engine, so that each chain sees its own alone."""
    return name == VERSION_TABLE or name in EngineBase.metadata.tables


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
    """Tell whether one statement may write two tables, and take arrays as parameters."""
    return database.dialect.name == "postgresql"


@cache
def insert_arrays(table: sa.Table, names: tuple[str, ...]) -> sa.Insert:
    """PostgreSQL: insert many rows, of which each parameter gives a column, as an array.

    The text is the same for any number of rows: what has more than 50 parameters, psycopg reads
    anew at each use, and that is a third of a claim.
    """
    types = {name: table.c[name].type for name in names}
    arrays = [sa.bindparam(name, type_=sa.ARRAY(kind)) for name, kind in types.items()]
    columns = [sa.column(name, kind) for name, kind in types.items()]
    rows = sa.func.unnest(*arrays).table_valued(*columns).render_derived()
    return sa.insert(table).from_select(names, sa.select(*rows.c), include_defaults=False)
