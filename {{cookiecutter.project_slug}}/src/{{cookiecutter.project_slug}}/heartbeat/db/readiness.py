"""Whether a database can be used, and what its driver says if it cannot."""

from pathlib import Path

from sqlalchemy import Connection, Engine, FromClause, false, select
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ..errors import DatabaseNotReadyError
from ..redaction import without_password
from ..tracebacks import is_a
from .limits import error_code

# What a server answers that does not know SKIP LOCKED: PostgreSQL's SQLSTATE of a syntax error, and
# MySQL's error code.
SYNTAX_ERROR = frozenset({"42601", 1064})
# What MySQL and MariaDB answer to a wrong name, and to a wrong user or password. Who may create no
# database is not told whether one exists. PostgreSQL's driver gives no code for a connection that
# was refused, only the server's words.
UNKNOWN_DATABASE = frozenset({1044, 1049})
ACCESS_DENIED = frozenset({1045, 1698})
DENIED_WORDS = ("authentication failed", "no password supplied", "pg_hba.conf", 'FATAL:  role "')
# How the codes of errors begin that have to do with the moment and not with the statement:
# PostgreSQL's classes for connections, conflicts, resources, locks and operators; SQLite's names.
UNAVAILABLE_AS = (
    *("08", "25006", "25P03", "40", "53", "55P03", "57", "58"),
    *("SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_LOCKED"),
    *("SQLITE_NOMEM", "SQLITE_PROTOCOL", "SQLITE_READONLY"),
)
# MySQL and MariaDB: full, too many connections, shutting down, locked for too long, deadlock, the
# user's limit, read-only, too slow, killed.
UNAVAILABLE = frozenset(
    {1021, 1040, 1053, 1114, 1203, 1205, 1213, 1226, 1290, 1792, 1836, 1927, 1969, 3024}
)


def require_reachable(engine: Engine) -> None:
    """Raise DatabaseNotReadyError, naming the cause, if no connection can be made."""
    file = engine.url.database or ":memory:"
    # Connecting would make an empty one.
    if engine.dialect.name == "sqlite" and not (file == ":memory:" or Path(file).exists()):
        raise DatabaseNotReadyError(
            f"the database {file} cannot be reached (there is no such file): run `heartbeat "
            "migrate`, or fix sqlalchemy.url or DATABASE_URL"
        )
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


def is_unavailable(error: BaseException) -> bool:
    """Return whether an error means that the database cannot be used now, not a misuse of it."""
    if not is_a(error, DBAPIError):
        return is_a(error, PoolTimeoutError)
    # Without a statement it failed to connect, or to commit.
    unstated = is_a(error, OperationalError) and error.statement is None
    code = error_code(error.orig)
    refused = code in UNAVAILABLE if isinstance(code, int) else str(code).startswith(UNAVAILABLE_AS)
    return error.connection_invalidated or unstated or refused


def is_silent(error: BaseException) -> bool:
    """Return whether the database has not answered: asking for the cause would take as long."""
    said = reason(error) if is_a(error, DBAPIError) else ""
    return any(words in said for words in ("has not answered", "timeout expired", "timed out"))


def reason(error: DBAPIError) -> str:
    """Return what the driver says, in one line: some give it as the last of several values."""
    if notes := getattr(error.orig, "__notes__", ()):  # of the watch, which knows the cause
        return str(notes[0])
    # psycopg shows the place in the statement below what it says.
    if said := getattr(getattr(error.orig, "diag", None), "message_primary", None):
        return str(said)
    arguments = getattr(error.orig, "args", ())
    lines = str(arguments[-1] if arguments else error.orig).strip().splitlines()
    # psycopg indents guesses below what it says; PostgreSQL adds details.
    causes = [line for line in lines if not line.startswith((" ", "\t", "DETAIL:", "HINT:"))]
    return causes[-1] if causes else type(error.orig).__name__
