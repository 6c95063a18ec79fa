"""Whether a database can be used, what to do if it cannot, and making one that is missing."""

import shlex
from collections.abc import Iterable
from contextlib import suppress

from sqlalchemy import Connection, Engine, FromClause, create_engine, false, select
from sqlalchemy.exc import DBAPIError

from ..errors import DatabaseNotReadyError
from ..redaction import without_password
from .backends import backend_of
from .driver_errors import error_code, reason
from .text import UTF_8, codec_of

# What a server answers that does not know SKIP LOCKED: PostgreSQL's SQLSTATE of a syntax error, and
# MySQL's error code.
SYNTAX_ERROR = frozenset({"42601", 1064})
# What MySQL and MariaDB answer to a wrong name, and to a wrong user or password. A user who may
# create no database is not told whether one exists. PostgreSQL's driver gives no code for a
# connection that was refused, only the server's words.
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
    """Return what to do where no connection can be made, up to the name of the setting."""
    said, code = reason(error), error_code(error.orig)
    if engine.dialect.name == "sqlite":
        return "check the file and its permissions, or name another one in"
    if code in UNKNOWN_DATABASE or f'database "{engine.url.database}" does not exist' in said:
        return "run `heartbeat migrate`, which creates it, or correct its name in"
    if code in ACCESS_DENIED or any(words in said for words in DENIED_WORDS):
        return "correct the user and the password in"
    return "start its server, or correct"


def require_skip_locked(connection: Connection, table: FromClause) -> None:
    """Raise DatabaseNotReadyError if the server cannot pass over locked rows, as claims do.

    Asked by a statement that locks no row, whatever the server's version says.
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


def text_problem(connection: Connection, tables: Iterable[str]) -> str | None:
    """Return why some tables cannot hold any Unicode, and what to do; None if they can."""
    codec = codec_of(connection.dialect)
    if codec != UTF_8:
        return (
            f"text is stored as {codec}, and other characters as escapes: use a database whose "
            "encoding is UTF-8, and no other character set in sqlalchemy.url"
        )
    if found := ", ".join(backend_of(connection).limited_columns(connection, tables)):
        return f"not every character can be stored in {found}: give the columns the charset utf8mb4"
    return None


def create_database(engine: Engine) -> bool:
    """Create the engine's database if its server lacks it; return whether that was needed.

    Raises DatabaseNotReadyError: with the command to run, where creating is not allowed.
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
    except DBAPIError:  # nothing is there to create in
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
            f"({reason(error)}): have it made with {command}"
        ) from error
    finally:
        server.dispose()
    return True
