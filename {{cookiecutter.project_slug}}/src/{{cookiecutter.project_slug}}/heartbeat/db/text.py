"""Text columns that hold any Unicode, whatever the default character set of the database is.

A character that a database or its connection cannot store is replaced by Python's escape, so that
the rest of the record is kept.
"""

import codecs
import re
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator, TypeEngine

from ..redaction import escape, shorten
from .stored import Stored

UTF_8 = "utf-8"
MYSQL = ("mysql", "mariadb")
# Texts compare byte by byte; MySQL's usual collation ignores case, also in what a CHECK allows.
UNICODE: dict[str, Any] = {"charset": "utf8mb4", "collation": "utf8mb4_bin"}
# Escapes make a text longer, and MySQL's TEXT holds 65,535 bytes.
MAX_ESCAPED = 20_000
_ESCAPE = re.compile(r"\\(?:\\|(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}))")
# By the dialect of an engine: the codec of the characters that its connections can store.
_CODECS: WeakKeyDictionary[sa.Dialect, str] = WeakKeyDictionary()


class AnyText(Stored, TypeDecorator[str]):
    """Text of any Unicode: AnyText(200) is a VARCHAR of 200 characters, and AnyText() a TEXT."""

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = sa.Text
    cache_ok = True

    def __init__(self, length: int | None = None) -> None:
        super().__init__()
        self.length = length
        portable: TypeEngine[str] = sa.String(length) if length else sa.Text()
        unicode = mysql.VARCHAR(length, **UNICODE) if length else mysql.TEXT(**UNICODE)
        self.impl = portable.with_variant(unicode, *MYSQL)

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """Escape the characters that the connections of `dialect` cannot store."""
        if value is None or (value.isascii() and "\0" not in value):
            return value
        stored = escape(value, codec_of(dialect))
        if stored == value:
            return value
        return stored[: self.length] if self.length else shorten(stored, MAX_ESCAPED)

    def read(self, value: Any) -> str:
        """Return the text: SQLite has any value in such a column."""
        if not isinstance(value, str):
            raise TypeError
        return value


class NameText(AnyText):
    """A name. Its escapes are undone when it is read, so that a lookup finds the original."""

    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """Escape the characters that the connections of `dialect` cannot store, reversibly."""
        # For speed: each claim binds the names of all flows.
        if value is None or (value.isascii() and "\\" not in value):
            return value
        if codec_of(dialect) != UTF_8:
            value = value.replace("\\", r"\\")
        return super().process_bind_param(value, dialect)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Any:
        """Return the function that restores names."""
        read = super().result_processor(dialect, coltype)

        def process(value: Any) -> Any:
            if not isinstance(value, str) or "\\" not in value or codec_of(dialect) == UTF_8:
                return read(value)
            return _ESCAPE.sub(_character, value)

        return process


def _character(escaped: re.Match[str]) -> str:
    return chr(int(escaped[1][1:], 16)) if escaped[1] else "\\"


def codec_of(dialect: sa.Dialect) -> str:
    """Return the codec of the characters that the connections of an engine can store."""
    return _CODECS.get(dialect, UTF_8)


def learn_codec(dialect: sa.Dialect, *encodings: str) -> None:
    """Record the codec of an engine's connections, whose texts pass through all `encodings`."""
    found = map(_python_codec, encodings)
    _CODECS[dialect] = next((codec for codec in found if codec != UTF_8), UTF_8)


def _python_codec(encoding: str) -> str:
    """Return Python's name of an encoding; ASCII for one that Python lacks."""
    name = re.sub(r"^win(?=\d)", "cp", encoding.lower())
    try:
        return codecs.lookup(re.sub(r"^koi8(?=[ru]$)", "koi8_", name)).name
    except LookupError:
        return "ascii"
