"""SQL expressions that differ between databases, or include unreadable times."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from ..schedules.rule import LAST_SLOT
from .types import UTCDateTime

# On SQLite, a text that begins with a letter is greater, too.
END_OF_TIME = sa.literal(LAST_SLOT, UTCDateTime())


def has_come(time: Any, now: sa.ColumnElement[datetime]) -> sa.ColumnElement[bool]:
    """Return the condition that a time is not after `now`, or is unreadable.

    A row with an unreadable time must be selected, so that its flow is disabled with the reason.
    """
    return sa.or_(time <= now, time > END_OF_TIME)


class seconds_before(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function it is
    """SQL: the moment that lies a number of seconds before a time, both of them expressions."""

    type = UTCDateTime()
    inherit_cache = True
    name = "seconds_before"


_SECONDS_BEFORE = "({moment} - INTERVAL (({seconds}) * 1000000) MICROSECOND)"
_OVERRIDES = {
    "postgresql": "({moment} - ({seconds}) * interval '1 second')",
    # The text that SQLAlchemy stores, so that both sides compare as text; whole milliseconds.
    "sqlite": "(strftime('%Y-%m-%d %H:%M:%f', {moment}, (-({seconds})) || ' seconds') || '000')",
}


@compiles(seconds_before)
def _compile(element: Any, compiler: SQLCompiler, **options: Any) -> str:
    moment, seconds = (compiler.process(clause, **options) for clause in element.clauses)
    expression = _OVERRIDES.get(compiler.dialect.name, _SECONDS_BEFORE)
    return expression.format(moment=moment, seconds=seconds)


class epoch_seconds(FunctionElement[int]):  # noqa: N801 - reads as the SQL function it is
    """SQL: the whole seconds from 1970 until a time; NULL if it cannot be read."""

    type = sa.BigInteger()
    inherit_cache = True
    name = "epoch_seconds"


_EPOCH_SECONDS = "TIMESTAMPDIFF(SECOND, '1970-01-01', {moment})"
_EPOCH_OVERRIDES = {
    # Infinite times have no number of seconds.
    "postgresql": (
        "CASE WHEN {moment} BETWEEN '1970-01-01' AND '9999-12-31' "
        "THEN CAST(FLOOR(EXTRACT(EPOCH FROM {moment})) AS BIGINT) END"
    ),
    "sqlite": "CAST(strftime('%s', {moment}) AS INTEGER)",
}


@compiles(epoch_seconds)
def _compile_epoch(element: Any, compiler: SQLCompiler, **options: Any) -> str:
    [moment] = (compiler.process(clause, **options) for clause in element.clauses)
    expression = _EPOCH_OVERRIDES.get(compiler.dialect.name, _EPOCH_SECONDS)
    return expression.format(moment=moment)
