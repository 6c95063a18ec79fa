"""What migrating asks of a server: a database, made if it is missing, and one process at a time."""

import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError

from ..db import MIGRATION, reason, require_reachable
from ..errors import DatabaseNotReadyError

_TAKES_TOO_LONG = f"another process has been migrating for {MIGRATION.lock} s: end it, and retry"


def create_database(engine: Engine) -> bool:
    """Create the engine's database if its server lacks it; return whether that was needed.

    SQLite makes its file at the first connection; here only its folder is made. Raises
    DatabaseNotReadyError: with the command to run, where creating is not allowed.
    """
    url = engine.url
    kind = url.get_backend_name()
    if kind == "sqlite":
        if url.database and url.database != ":memory:":
            Path(url.database).resolve().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return False
    with suppress(DatabaseNotReadyError):
        require_reachable(engine)
        return False
    # Each server has this one; if it cannot be reached either, nothing is there to create in.
    catalog = "postgres" if kind == "postgresql" else "information_schema"
    server = create_engine(url.set(database=catalog), isolation_level="AUTOCOMMIT")
    try:
        connection = server.connect()
    except DBAPIError:
        require_reachable(engine)
        return False
    quote = server.dialect.identifier_preparer.quote_identifier
    name = quote(url.database or "")
    create = f"CREATE DATABASE {name}{'' if kind == 'postgresql' else ' CHARACTER SET utf8mb4'}"
    try:
        with connection:
            user = connection.exec_driver_sql("SELECT CURRENT_USER").scalar_one()
            connection.exec_driver_sql(create)
    except DBAPIError as error:
        with suppress(DatabaseNotReadyError):
            require_reachable(engine)
            return False  # Another process was faster.
        # The user of the command must not be the only one with access to the database.
        if kind == "postgresql":
            client, command = "psql postgres -c", f"{create} OWNER {quote(user)}"
        else:
            account = "'@'".join(user.rsplit("@", 1))
            client, command = "mysql -e", f"{create}; GRANT ALL ON {name}.* TO '{account}'"
        raise DatabaseNotReadyError(
            f"the database {url.database!r} is missing and cannot be created "
            f"({reason(error)}): have it made with {client} {shlex.quote(command)}"
        ) from error
    finally:
        server.dispose()
    return True


@contextmanager
def migration_lock(connection: Connection) -> Iterator[None]:
    """Hold the lock under which one process migrates; the others wait and find nothing to do.

    Raises DatabaseNotReadyError, or the driver's error, if that takes longer than MIGRATION allows.
    """
    kind = connection.dialect.name
    if kind == "sqlite":
        # Not the write lock, for which an Alembic environment with a connection of its own waits.
        with _lock_folder(connection.engine.url.database or ":memory:"):
            yield
    elif kind == "postgresql":
        # Ends with the transaction, so that a pooling proxy between us and the server is fine.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(744196403)")
        yield
    else:
        lock = f"SELECT GET_LOCK('heartbeat_migrate', {MIGRATION.lock})"
        if not connection.exec_driver_sql(lock).scalar():
            raise DatabaseNotReadyError(_TAKES_TOO_LONG)
        try:
            yield
        finally:
            connection.exec_driver_sql("SELECT RELEASE_LOCK('heartbeat_migrate')")


@contextmanager
def _lock_folder(database: str) -> Iterator[None]:
    """Hold a lock on the folder of SQLite's file, which ends with the process at the latest."""
    if database == ":memory:":
        yield
        return
    import fcntl  # not on every system that can import this

    folder = os.open(Path(database).resolve().parent, os.O_RDONLY)
    deadline = time.monotonic() + MIGRATION.lock
    try:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > deadline:
                raise DatabaseNotReadyError(_TAKES_TOO_LONG)
            time.sleep(0.1)
        yield
    finally:
        os.close(folder)
