"""Which backend a connection or an engine belongs to."""

from sqlalchemy import Connection, Engine

from .backend import Backend
from .mysql import MySQL
from .postgresql import PostgreSQL
from .sqlite import SQLite

_MYSQL = MySQL()
BACKENDS: dict[str, Backend] = {
    "sqlite": SQLite(),
    "postgresql": PostgreSQL(),
    "mysql": _MYSQL,
    "mariadb": _MYSQL,
}


def backend_of(database: Connection | Engine) -> Backend:
    """Return what differs in this database."""
    return BACKENDS[database.dialect.name]
