"""What an error of a driver means, and what it says."""

from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ..tracebacks import is_a

# How the codes of errors begin that have to do with the moment and not with the statement:
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
    """Return what a driver's error is: PostgreSQL's SQLSTATE, MySQL's number, or SQLite's name."""
    number = next(iter(getattr(error, "args", ())), None)
    if isinstance(number, int):
        return number
    names = ("sqlstate", "pgcode", "sqlite_errorname")  # the second one is psycopg2's
    return next(filter(None, (getattr(error, name, None) for name in names)), None)


def replace_read_only(context: ExceptionContext) -> None:
    """Make the pool drop its connections if this one may only read: a new one may write again."""
    if str(error_code(context.original_exception)).startswith(READ_ONLY):
        context.is_disconnect = True


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
