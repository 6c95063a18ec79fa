"""Which backend a connection or an engine belongs to."""

from functools import cache

from sqlalchemy import Connection, Engine

from .backend import Backend
from .text import MYSQL


@cache
def backend_named(name: str) -> Backend:
    """Return what differs in the databases of a dialect.

    Its module is imported now, since SQLAlchemy's dialects and the drivers take long to import.
    """
    if name == "postgresql":
        from .postgresql import PostgreSQL

        return PostgreSQL()
    if name == "sqlite":
        from .sqlite import SQLite

        return SQLite()
    if name in MYSQL:
        from .mysql import MySQL

        return MySQL()
    return Backend()


def backend_of(database: Connection | Engine) -> Backend:
    """Return what differs in this database."""
    return backend_named(database.dialect.name)
