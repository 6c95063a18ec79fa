"""Text columns that hold any Unicode, whatever the default character set of the database is.

Where a database or a connection cannot store a character, its escape in Python is stored instead,
so that the rest of the record is kept.
"""

import codecs
import re
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator, TypeEngine

from ..redaction import escape, shorten

UTF_8 = "utf-8"
MYSQL = ("mysql", "mariadb")
# Texts compare byte by byte; MySQL's usual collation ignores case, also in what a CHECK allows.
UNICODE: dict[str, Any] = {"charset": "utf8mb4", "collation": "utf8mb4_bin"}
# Escapes make a text longer, and MySQL's TEXT holds 65,535 bytes.
MAX_ESCAPED = 20_000
_ESCAPE = re.compile(r"\\(?:\\|(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}))")
# What the connections of an engine can store: a codec of Python, by the engine's dialect.
_CODECS: WeakKeyDictionary[sa.Dialect, str] = WeakKeyDictionary()


class AnyText(TypeDecorator[str]):
    """Text of any Unicode: AnyText(200) is a VARCHAR of 200 characters, and AnyText() a TEXT."""

    impl = sa.Text
    cache_ok = True
    kinds = (str,)  # see `stored.py`

    def __init__(self, length: int | None = None) -> None:
        super().__init__()
        self.length = length

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[str]:
        """Return the type of the column, which on MySQL names its character set."""
        if dialect.name in MYSQL:
            return mysql.VARCHAR(self.length, **UNICODE) if self.length else mysql.TEXT(**UNICODE)
        return sa.String(self.length) if self.length else sa.Text()

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """Escape what the connections of `dialect` cannot store."""
        if value is None or (value.isascii() and "\0" not in value):
            return value
        stored = escape(value, codec_of(dialect))
        if stored == value:
            return value
        return stored[: self.length] if self.length else shorten(stored, MAX_ESCAPED)


class NameText(AnyText):
    """A name, which is looked up by what it was: its escapes are undone where it is read."""

    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """Escape what the connections of `dialect` cannot store, so that it can be undone."""
        # Each claim binds the names of all flows, and nearly all of them end here.
        if value is None or (value.isascii() and "\\" not in value):
            return value
        if codec_of(dialect) != UTF_8:
            value = value.replace("\\", r"\\")
        return super().process_bind_param(value, dialect)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """Return the name as it was given."""
        if not isinstance(value, str) or "\\" not in value or codec_of(dialect) == UTF_8:
            return value
        return _ESCAPE.sub(lambda found: chr(int(found[1][1:], 16)) if found[1] else "\\", value)


def codec_of(dialect: sa.Dialect) -> str:
    """Return the codec of Python for what the connections of an engine can store."""
    return _CODECS.get(dialect, UTF_8)


def learn_codec(engine: sa.Engine) -> None:
    """Learn from each new connection of an engine what it can store."""
    event.listen(engine, "connect", partial(_learn_codec, engine.dialect))


def _learn_codec(dialect: sa.Dialect, connection: Any, _record: object) -> None:
    name = getattr(connection, "character_set_name", str)()  # not every driver has it
    if dialect.name in MYSQL and name in {"utf8", "utf8mb3"}:
        connection.set_character_set(UNICODE["charset"])  # a superset
    found = map(_python_codec, _encodings(connection))
    _CODECS[dialect] = next((codec for codec in found if codec != UTF_8), UTF_8)


def _encodings(connection: Any) -> list[str]:
    """Return the encodings through which a text is stored, as the driver names them."""
    info: Any = getattr(connection, "info", None)
    if not hasattr(info, "parameter_status"):
        return [getattr(connection, "encoding", UTF_8)]
    # A pooling proxy may not pass the first one on.
    return [info.parameter_status("server_encoding") or UTF_8, getattr(info, "encoding", UTF_8)]


def _python_codec(encoding: str) -> str:
    """Return Python's name of an encoding; ASCII for one that Python lacks."""
    name = re.sub(r"^win(?=\d)", "cp", encoding.lower())
    try:
        return codecs.lookup(re.sub(r"^koi8(?=[ru]$)", "koi8_", name)).name
    except LookupError:
        return "ascii"
