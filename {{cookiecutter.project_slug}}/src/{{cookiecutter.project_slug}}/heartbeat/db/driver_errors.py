"""The meaning of driver errors, and their messages."""

from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ..tracebacks import is_a

# The beginnings of codes for temporary problems, which are not caused by the statement:
# PostgreSQL's classes for connections, conflicts, resources, locks and operators; SQLite's names.
UNAVAILABLE_AS = (
    *("08", "25006", "25P03", "40", "53", "55P03", "57", "58"),
    *("SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_LOCKED"),
    *("SQLITE_NOMEM", "SQLITE_PROTOCOL", "SQLITE_READONLY"),
)
# A session that began while the database could only be read may stay read-only afterwards.
READ_ONLY = ("25006", "SQLITE_READONLY", "1290", "1792", "1836")
# MySQL and MariaDB: full, too many connections, shutting down, locked for too long, deadlock, the
# user's limit, read-only, too slow, killed.
UNAVAILABLE = frozenset(
    {1021, 1040, 1053, 1114, 1203, 1205, 1213, 1226, 1290, 1792, 1836, 1927, 1969, 3024}
)


def error_code(error: BaseException | None) -> object:
    """Return the code of a driver's error: PostgreSQL's SQLSTATE, MySQL's number, SQLite's name."""
    arguments = getattr(error, "args", ())
    if arguments and isinstance(arguments[0], int):
        return arguments[0]
    for name in ("sqlstate", "pgcode", "sqlite_errorname"):  # of psycopg, psycopg2 and sqlite3
        if code := getattr(error, name, None):
            return code
    return None


def replace_read_only(context: ExceptionContext) -> None:
    """Make the pool drop its connections if this one may only read: a new one may write again."""
    if str(error_code(context.original_exception)).startswith(READ_ONLY):
        context.is_disconnect = True


def is_unavailable(error: BaseException) -> bool:
    """Return whether an error is a temporary problem of the database, and not a wrong statement."""
    if not is_a(error, DBAPIError):
        return is_a(error, PoolTimeoutError)
    # An error without a statement is one of connecting or committing.
    no_statement = is_a(error, OperationalError) and error.statement is None
    code = error_code(error.orig)
    refused = code in UNAVAILABLE if isinstance(code, int) else str(code).startswith(UNAVAILABLE_AS)
    return error.connection_invalidated or no_statement or refused


def is_silent(error: BaseException) -> bool:
    """Return whether the database did not answer in time, so that another query would not help."""
    message = reason(error) if is_a(error, DBAPIError) else ""
    return any(words in message for words in ("has not answered", "timeout expired", "timed out"))


def reason(error: DBAPIError) -> str:
    """Return the driver's message, in one line."""
    if notes := getattr(error.orig, "__notes__", ()):  # of the watch, which knows the cause
        return str(notes[0])
    # The text of psycopg's error continues with the place in the statement.
    if message := getattr(getattr(error.orig, "diag", None), "message_primary", None):
        return str(message)
    # PyMySQL's error has a number before the message.
    arguments = getattr(error.orig, "args", ())
    lines = str(arguments[-1] if arguments else error.orig).strip().splitlines()
    # psycopg adds indented guesses, and PostgreSQL details.
    causes = [line for line in lines if not line.startswith((" ", "\t", "DETAIL:", "HINT:"))]
    return causes[-1] if causes else type(error.orig).__name__
