"""Reads stored values: an invalid one becomes `Unreadable`, without an error.

SQLite stores any value in any column, PostgreSQL has times that Python lacks, and MariaDB has dates
of zeros. The other rows of a result stay readable: see `runs/unreadable.py`.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

# How many characters of an unreadable value are shown.
MAX_SHOWN = 80
# The errors that `Stored.read` may raise for an invalid value.
ERRORS = (ValueError, TypeError, OverflowError, AttributeError, LookupError)

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A stored value that cannot be read, as a short text."""

    text: str

    def __str__(self) -> str:
        return self.text


def readable(value: _Value) -> _Value | None:
    """Return a stored value; None if it cannot be read."""
    return None if isinstance(value, Unreadable) else value


def show(value: object) -> str:
    """Return a stored value as a short text, for messages and for values that JSON lacks.

    Times are in ISO 8601, all other values in ASCII, and a long value is cut.
    """
    if isinstance(value, Unreadable):
        return value.text
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list):  # an invalid configuration, which may contain secrets
        return "a list"
    text = ascii(value[:MAX_SHOWN] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ..."


def decode(text: bytes) -> str | Unreadable:
    """Return a text from SQLite, whose driver fails on text that is not UTF-8."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return Unreadable(show(text))


class Stored:
    """A mixin for types: yields Unreadable where `read` raises one of ERRORS."""

    def read(self, value: Any) -> Any:
        """Convert a value of the driver, which is not None."""
        raise NotImplementedError

    def result_processor(self, _dialect: sa.Dialect, _coltype: object) -> Any:
        """Return the function that converts the values of a column."""
        read = self.read

        def process(value: Any) -> Any:
            if value is None:
                return None
            try:
                return read(value)
            except ERRORS:
                return Unreadable(show(value))

        return process


class StoredText(Stored):
    """A mixin for types that PostgreSQL returns as text: its drivers fail on some of the values."""

    def column_expression(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Select the value as text on PostgreSQL."""
        selected: Any = _Text(column)
        selected.type = self
        return selected  # type: ignore[no-any-return]


class _Text(FunctionElement[Any]):
    inherit_cache = True
    name = "stored_text"


@compiles(_Text)
def _compile(element: Any, compiler: SQLCompiler, **options: Any) -> str:
    [column] = element.clauses
    return compiler.process(column, **options)


@compiles(_Text, "postgresql")
def _compile_postgresql(element: Any, compiler: SQLCompiler, **options: Any) -> str:
    # The form of JSON, unlike that of a cast, depends on no setting of the server.
    return f"to_json({_compile(element, compiler, **options)})::text"
