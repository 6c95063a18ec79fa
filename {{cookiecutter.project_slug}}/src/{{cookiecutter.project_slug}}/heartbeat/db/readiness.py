"""Checks whether a database can be used, with the solution if not, and creates a missing one."""

import shlex
from contextlib import suppress

from sqlalchemy import Connection, Engine, FromClause, create_engine, false, select
from sqlalchemy.exc import DBAPIError

from ..errors import DatabaseNotReadyError
from ..redaction import without_password
from .backends import backend_of
from .driver_errors import error_code, reason

# The errors of a server that does not know SKIP LOCKED: the codes of PostgreSQL and MySQL for a
# syntax error.
SYNTAX_ERROR = frozenset({"42601", 1064})
# The errors of MySQL and MariaDB for an unknown database (1044 for a user who may not even see
# whether it exists), and for a wrong user or password. The errors of PostgreSQL's driver for a
# refused connection have no code, only the server's message.
UNKNOWN_DATABASE = frozenset({1044, 1049})
ACCESS_DENIED = frozenset({1045, 1698})
DENIED_WORDS = ("authentication failed", "no password supplied", "pg_hba.conf", 'FATAL:  role "')


def require_reachable(engine: Engine) -> None:
    """Raise DatabaseNotReadyError, naming the cause, if no connection can be made."""
    backend_of(engine).require_file(engine.url)
    try:
        engine.connect().close()
    except DBAPIError as error:
        raise DatabaseNotReadyError(
            f"the database {without_password(engine.url)} cannot be reached ({reason(error)}): "
            f"{_fix(error, engine)} sqlalchemy.url or DATABASE_URL"
        ) from error


def _fix(error: DBAPIError, engine: Engine) -> str:
    """Return the solution if no connection can be made, up to the name of the setting."""
    message, code = reason(error), error_code(error.orig)
    if engine.dialect.name == "sqlite":
        return "check the file and its permissions, or name another one in"
    if code in UNKNOWN_DATABASE or f'database "{engine.url.database}" does not exist' in message:
        return "run `heartbeat migrate`, which creates it, or correct its name in"
    if code in ACCESS_DENIED or any(words in message for words in DENIED_WORDS):
        return "correct the user and the password in"
    return "start its server, or correct"


def require_skip_locked(connection: Connection, table: FromClause) -> None:
    """Raise DatabaseNotReadyError if the server cannot skip locked rows, as claims do.

    A statement that locks no row shows it; the version of the server would not.
    """
    try:
        connection.execute(select(table.c.id).where(false()).with_for_update(skip_locked=True))
    except DBAPIError as error:
        if error_code(error.orig) not in SYNTAX_ERROR:
            raise
        dialect = connection.dialect
        kind = "mariadb" if getattr(dialect, "is_mariadb", False) else dialect.name
        version = ".".join(map(str, dialect.server_version_info or ()))
        where = without_password(connection.engine.url)
        raise DatabaseNotReadyError(
            f"the server of {where}, {kind} {version}, refuses FOR UPDATE SKIP LOCKED "
            f"({reason(error)}): use PostgreSQL 9.5, MySQL 8.0.1, MariaDB 10.6 or newer"
        ) from error


def create_database(engine: Engine) -> bool:
    """Create the engine's database if it is missing; return whether that was needed.

    Raises DatabaseNotReadyError, with the command to run, if this user may not create it.
    """
    backend, url = backend_of(engine), engine.url
    if backend.create_folder(url):
        return False
    with suppress(DatabaseNotReadyError):
        require_reachable(engine)
        return False
    server = create_engine(url.set(database=backend.catalog), isolation_level="AUTOCOMMIT")
    try:
        connection = server.connect()
    except DBAPIError:  # no server to create it on
        require_reachable(engine)
        return False
    quote = server.dialect.identifier_preparer.quote_identifier
    create = backend.create_statement.format(name=quote(url.database or ""))
    try:
        with connection:
            user = connection.exec_driver_sql("SELECT CURRENT_USER").scalar_one()
            connection.exec_driver_sql(create)
    except DBAPIError as error:
        with suppress(DatabaseNotReadyError):
            require_reachable(engine)
            return False  # Another process was faster.
        command = shlex.join(backend.create_command(create, user, quote))
        raise DatabaseNotReadyError(
            f"the database {url.database!r} is missing and cannot be created "
            f"({reason(error)}): create it with {command}"
        ) from error
    finally:
        server.dispose()
    return True
