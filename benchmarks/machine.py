"""The machine, without a name or a path: cores, versions, and the cost of a commit."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

import sqlalchemy as sa

from .databases import VARIABLES
from .views import installed_versions

if TYPE_CHECKING:
    from pathlib import Path

PEERS = (
    *("apscheduler", "asyncpg", "celery", "dbos", "huey", "pgqueuer", "procrastinate", "psycopg"),
    *("pymysql", "redis", "sqlalchemy", "transaction", "zope.sqlalchemy"),
)
PROJECT = ("psycopg", "pymysql", "pyramid", "sqlalchemy", "waitress", "zope-sqlalchemy")
SYNCS = 200
QUERIES = {
    "postgresql": "SELECT current_setting('server_version') || ', fsync ' || "
    "current_setting('fsync') || ', synchronous_commit ' || "
    "current_setting('synchronous_commit')",
    "mysql": "SELECT CONCAT(version(), ', innodb_flush_log_at_trx_commit ', "
    "@@innodb_flush_log_at_trx_commit)",
}


def describe(folder: Path, python: Path) -> dict[str, str]:
    """Return the properties of the machine, and the versions of the measured packages."""
    installed = installed_versions(python)
    machine = {
        "cores": str(os.cpu_count()),
        "one fsync": f"{fsync_milliseconds(folder):.2f} ms (8 KiB, where the SQLite files are)",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
    }
    for kind, query in QUERIES.items():
        url = os.environ.get(VARIABLES[kind])
        if url:
            with sa.create_engine(url).connect() as connection:
                machine[kind] = str(connection.exec_driver_sql(query).scalar_one())
    machine["the project's packages"] = ", ".join(
        f"{name} {installed[name]}" for name in PROJECT if name in installed
    )
    machine["the peers' packages"] = ", ".join(f"{name} {version(name)}" for name in PEERS)
    return machine


def fsync_milliseconds(folder: Path) -> float:
    """Return the median time of an fsync after a write."""
    file = os.open(folder / "fsync", os.O_WRONLY | os.O_CREAT)
    taken = []
    for _ in range(SYNCS):
        os.pwrite(file, os.urandom(8192), 0)
        began = time.perf_counter()
        os.fsync(file)
        taken.append((time.perf_counter() - began) * 1000)
    os.close(file)
    return statistics.median(taken)
