"""Databases of the run: created on the server that a variable names, and dropped."""

from __future__ import annotations

import os
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VARIABLES = {"postgresql": "TEST_POSTGRESQL_URL", "mysql": "TEST_MYSQL_URL"}
KINDS = ("postgresql", "mysql", "sqlite")
# The last database of a Redis, since the run empties it.
REDIS_URL = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/15")
AMQP_URL = os.environ.get("TEST_AMQP_URL", "")


class MissingError(Exception):
    """A service is not available; the message is the reason to omit its measurements."""


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """Create an empty database, yield its URL, and drop it."""
    name = f"heartbeat_bench_{uuid.uuid4().hex[:8]}"
    if kind == "sqlite":
        yield f"sqlite:///{folder / name}.sqlite"
        for file in folder.glob(f"{name}.sqlite*"):
            file.unlink()
        return
    url = os.environ.get(VARIABLES[kind])
    if not url:
        raise MissingError(f"{VARIABLES[kind]} is not set")
    server = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    execute(server, f"CREATE DATABASE {name}")
    try:
        yield sa.make_url(url).set(database=name).render_as_string(hide_password=False)
    finally:
        # The server may still have the connection of a killed process.
        execute(server, f"DROP DATABASE {name}{' WITH (FORCE)' * (kind == 'postgresql')}")


def execute(engine: sa.Engine, *statements: str) -> None:
    """Execute statements as they are, each committed."""
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
            connection.commit()


def settle(engine: sa.Engine) -> None:
    """Do the background work of the database now instead of during a measurement."""
    if engine.dialect.name == "postgresql":
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql("VACUUM (ANALYZE)")
            connection.exec_driver_sql("CHECKPOINT")
    elif engine.dialect.name == "sqlite":
        execute(engine, "PRAGMA wal_checkpoint(TRUNCATE)")


def numbers(count: int) -> sa.CTE:
    """Return a recursive CTE with the numbers from 1 to `count`."""
    first = sa.select(sa.literal(1).label("i")).cte("numbers", recursive=True)
    return first.union_all(sa.select(first.c.i + 1).where(first.c.i < count))


def allow_recursion(connection: sa.Connection) -> None:
    """Raise the server's limit of recursion for `numbers`."""
    if connection.dialect.name == "mysql":
        mariadb = getattr(connection.dialect, "is_mariadb", False)
        name = "max_recursive_iterations" if mariadb else "cte_max_recursion_depth"
        connection.exec_driver_sql(f"SET SESSION {name} = 100000000")


def require_redis() -> None:
    """Empty the Redis database of the run; raise MissingError without a server."""
    import redis  # noqa: PLC0415 - a run without Redis needs no client

    try:
        redis.Redis.from_url(REDIS_URL).flushdb()
    except redis.RedisError as error:
        raise MissingError(f"Redis does not answer: {type(error).__name__}") from error


def require_rabbitmq(*queues: str) -> None:
    """Delete the queues of the run; raise MissingError without a server."""
    import kombu  # noqa: PLC0415 - as above

    if not AMQP_URL:
        raise MissingError("TEST_AMQP_URL is not set")
    try:
        with kombu.Connection(AMQP_URL, connect_timeout=5) as connection:
            connection.ensure_connection(max_retries=1)
            for queue in queues:
                connection.channel().queue_delete(queue)
    except (OSError, kombu.exceptions.KombuError) as error:
        raise MissingError(f"RabbitMQ does not answer: {type(error).__name__}") from error
