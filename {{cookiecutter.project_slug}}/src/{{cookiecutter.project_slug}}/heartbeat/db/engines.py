"""Engines: where the database is, and what its connections have set."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from ..errors import SettingsError
from .backends import backend_named
from .limits import DEFAULT, Limits
from .text import learn_codec

# Written out, since SQLAlchemy's default drivers have changed between versions.
_DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
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
    except (ArgumentError, ValueError):  # the latter for an invalid port
        message = f"sqlalchemy.url or DATABASE_URL is not a database URL: write one {example}"
        raise SettingsError(message) from None
    return url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))


def make_engine(url: URL, *, limits: Limits = DEFAULT, pool_size: int = 5) -> Engine:
    """Return an Engine for `url` whose connections wait no longer than `limits`.

    Raises SettingsError when the URL's driver is not installed or not known.
    """
    backend = backend_named(url.get_backend_name())
    options = {"pool_size": pool_size, "max_overflow": 20, "pool_timeout": POOL_SECONDS}
    options |= backend.engine_options(url, limits)
    try:
        # Parameters stay out of error messages, which are stored and logged.
        engine = create_engine(url, hide_parameters=True, **options)
    except (ImportError, ArgumentError, TypeError) as error:
        problem = f"the database driver of {url.drivername!r} cannot be used ({error})"
        fix = "install it or fix sqlalchemy.url or DATABASE_URL"
        if url.drivername == "postgresql+psycopg" and find_spec("psycopg2"):
            fix += "; psycopg2 is installed: to use that, write postgresql+psycopg2://"
        raise SettingsError(f"{problem}: {fix}") from error

    def learn_encodings(connection: Any, _record: object) -> None:
        learn_codec(engine.dialect, *backend.encodings(connection))

    event.listen(engine, "connect", learn_encodings)
    backend.prepare(engine, limits)
    return engine


def close_connections(engine: Engine) -> None:
    """Close the idle connections of `engine`, and each other one when its user returns it.

    SQLAlchemy leaves the latter to the garbage collector.
    """
    pool = engine.pool
    engine.dispose()
    event.listen(pool, "checkin", lambda _connection, record: record.invalidate())
