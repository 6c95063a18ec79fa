"""Engines: where the database is, and what its connections have set."""

import math
import os
import time
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

from sqlalchemy import URL, Engine, QueuePool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

from ..errors import SettingsError
from ..models.text import learn_codec
from . import sqlite
from .limits import BOOKKEEPING, DEFAULT, Limits, connect_arguments, set_limits

# SQLAlchemy's own choice for a bare URL changed between versions: written out, it cannot.
_DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
# A connection that was idle for these seconds is tested whether its server is still there; testing
# before each use would be a good part of what a short run costs.
PING_AFTER = 1.0
# How long a thread waits for one of the pool's connections, in seconds.
POOL_SECONDS = 10


def database_url(settings: Mapping[str, Any]) -> URL:
    """Return the database's URL: `DATABASE_URL` if it is set, else `sqlalchemy.url`.

    Raises SettingsError, without the URL's password, when there is none or it cannot be read.
    """
    raw = os.environ.get("DATABASE_URL") or settings.get("sqlalchemy.url")
    example = "such as sqlite:///var/app.sqlite or postgresql+psycopg://localhost/app"
    if not raw:
        message = f"no database: set sqlalchemy.url in the .ini file, or DATABASE_URL, {example}"
        raise SettingsError(message)
    try:
        url = make_url(raw)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        message = f"sqlalchemy.url or DATABASE_URL is not a database URL: write one {example}"
        raise SettingsError(message) from None
    return url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))


def make_engine(url: URL, *, limits: Limits = DEFAULT, pool_size: int = 5) -> Engine:
    """Return an Engine for `url` whose connections wait no longer than `limits`.

    Raises SettingsError when the URL's driver is not installed or not known.
    """
    options: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 20}
    options["pool_timeout"] = POOL_SECONDS
    if url.get_backend_name() == "sqlite":
        patience = min(limits.write_lock, sqlite.LOCK_SECONDS)
        # The driver's own transactions begin too late, and not at all before a savepoint.
        options["connect_args"] = {"isolation_level": None, "timeout": patience}
        if url.database in {None, "", ":memory:"}:  # as tests of applications have it
            options["poolclass"] = QueuePool
            options["connect_args"]["check_same_thread"] = False
        # A thread that waits for the write lock holds a connection, and none may lack one for that.
        options["max_overflow"] = -1
    elif url.get_backend_name() == "postgresql":
        # Transactions begin in `limits.py`: at READ COMMITTED, with their settings.
        options["isolation_level"] = "AUTOCOMMIT"
        driver = url.get_driver_name()
        arguments = connect_arguments(driver)
        options["connect_args"] = {
            name: value for name, value in arguments.items() if name not in url.query
        }
        if driver == "psycopg":
            # A pooling proxy hands out connections that lack what was prepared on others.
            options["connect_args"]["prepare_threshold"] = None
            # In SQL_ASCII, which may be the encoding of the database, psycopg reads no text.
            encoding = url.query.get("client_encoding", "utf8")
            options["connect_args"]["client_encoding"] = encoding
    else:
        # MariaDB's default, REPEATABLE READ, makes healthy runs deadlock at their finish.
        options["isolation_level"] = "READ COMMITTED"
    try:
        # Parameters stay out of error messages, which are stored and logged.
        engine = create_engine(url, hide_parameters=True, **options)
    except (ImportError, ArgumentError, TypeError) as error:
        problem = f"the database driver of {url.drivername!r} cannot be used ({error})"
        fix = "install it or fix sqlalchemy.url or DATABASE_URL"
        if url.drivername == "postgresql+psycopg" and find_spec("psycopg2"):
            fix += "; psycopg2 is installed: to use that, write postgresql+psycopg2://"
        raise SettingsError(f"{problem}: {fix}") from error
    learn_codec(engine)
    if engine.dialect.name == "sqlite":
        sqlite.prepare_engine(engine)
        if limits == BOOKKEEPING:  # flows get what the driver gives
            event.listen(engine, "connect", sqlite.read_any_text)
    else:
        set_limits(engine, limits)
        event.listen(engine, "checkin", _mark_idle)
        event.listen(engine, "checkout", partial(_ping_idle, engine))
    return engine


def _mark_idle(_connection: object, record: ConnectionPoolEntry) -> None:
    record.info["idle_since"] = time.monotonic()


def _ping_idle(
    engine: Engine, connection: Any, record: ConnectionPoolEntry, _proxy: object
) -> None:
    """Replace connections whose server is gone, like `pool_pre_ping`, but test only idle ones."""
    if time.monotonic() - record.info.get("idle_since", math.inf) < PING_AFTER:
        return
    try:
        engine.dialect.do_ping(connection)
    except engine.dialect.loaded_dbapi.Error as error:
        raise InvalidatePoolError from error
