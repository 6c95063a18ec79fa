"""Which backend a connection or an engine belongs to."""

from sqlalchemy import Connection, Engine

from .backend import Backend
from .mysql import MySQL
from .postgresql import PostgreSQL
from .sqlite import SQLite
from .text import MYSQL

BACKENDS: dict[str, Backend] = {"postgresql": PostgreSQL(), "sqlite": SQLite()}
BACKENDS |= dict.fromkeys(MYSQL, MySQL())


def backend_of(database: Connection | Engine) -> Backend:
    """Return what differs in this database."""
    return BACKENDS[database.dialect.name]
