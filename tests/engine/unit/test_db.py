"""Where the database is, and what its connections have set."""

import socket
import sqlite3
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from data_flows.heartbeat.db import (
    BOOKKEEPING,
    UNLIMITED,
    Limits,
    Waiters,
    begin_writing,
    close_connections,
    create_database,
    database_url,
    make_engine,
    require_reachable,
)
from data_flows.heartbeat.db import write_lock as locking
from data_flows.heartbeat.db.limits import DEFAULT
from data_flows.heartbeat.errors import DatabaseBusyError, DatabaseNotReadyError, SettingsError

from ..conftest import DATABASE

# What SQLite calls it: a commit waits until the disk has it.
FULL = 2


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("postgres://joe@db/app", "postgresql+psycopg"),
        ("postgresql://joe@db/app", "postgresql+psycopg"),
        ("postgresql+asyncpg://joe@db/app", "postgresql+asyncpg"),
        ("mysql://joe@db/app", "mysql+pymysql"),
        ("mariadb://joe@db/app", "mariadb+pymysql"),
        ("sqlite:///app.sqlite", "sqlite"),
    ],
)
def test_a_bare_url_gets_the_driver_that_is_installed(
    monkeypatch: pytest.MonkeyPatch, given: str, driver: str
) -> None:
    monkeypatch.delenv("DATABASE_URL")

    assert database_url({"sqlalchemy.url": given}).drivername == driver


def test_the_environment_wins_over_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///environment.sqlite")

    assert database_url({"sqlalchemy.url": "sqlite:///file.sqlite"}).database == (
        "environment.sqlite"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sqlalchemy.url": ""},
        {"sqlalchemy.url": "hunter2"},
        {"sqlalchemy.url": "postgresql://joe:hunter2@localhost:port/app"},
    ],
)
def test_an_invalid_url_is_reported_with_an_example_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    monkeypatch.delenv("DATABASE_URL")

    with pytest.raises(SettingsError, match=r"sqlite:///var/app\.sqlite") as caught:
        database_url(settings)

    assert "hunter2" not in str(caught.value)


def test_a_driver_that_is_not_installed_is_named() -> None:
    with pytest.raises(SettingsError, match=r"postgresql\+nodriver.* install it or fix"):
        make_engine(make_url("postgresql+nodriver://joe@db/app"))


@pytest.mark.parametrize("installed", [False, True])
def test_psycopg2_is_proposed_where_it_is_installed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, installed: bool
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in ("psycopg", "psycopg2"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    if installed:
        (tmp_path / "psycopg2.py").touch()

    with pytest.raises(SettingsError) as caught:
        make_engine(make_url("postgresql+psycopg://localhost/birds"))

    proposal = "psycopg2 is installed: to use that, write postgresql+psycopg2://"
    assert (proposal in str(caught.value)) == installed


def test_connections_read_what_is_committed_and_check_foreign_keys(database_url: str) -> None:
    engine = make_engine(make_url(database_url))

    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            values = [
                connection.execute(text(f"PRAGMA {name}")).scalar_one()
                for name in ("foreign_keys", "journal_mode", "synchronous")
            ]
            expected = [1, "wal", FULL]
        else:
            values, expected = [connection.get_isolation_level()], ["READ COMMITTED"]
    engine.dispose()

    assert values == expected


@pytest.mark.parametrize(
    ("limits", "seconds"), [(BOOKKEEPING, 86_400), (UNLIMITED, 86_400), (DEFAULT, 60)]
)
def test_the_engine_waits_for_the_write_lock_of_sqlite_longer_than_any_flow_takes(
    tmp_path: Path, limits: Limits, seconds: int
) -> None:
    engine = make_engine(make_url(f"sqlite:///{tmp_path / 'app.sqlite'}"), limits=limits)

    with engine.connect() as connection:
        milliseconds = connection.execute(text("PRAGMA busy_timeout")).scalar_one()
    engine.dispose()

    assert milliseconds == 1_000 * seconds


def test_connecting_waits_for_another_that_creates_the_file_of_sqlite(tmp_path: Path) -> None:
    file = tmp_path / "app.sqlite"
    engine = make_engine(make_url(f"sqlite:///{file}"))
    with closing(sqlite3.connect(file)) as other, ThreadPoolExecutor() as pool:
        other.execute("CREATE TABLE theirs (id INTEGER)")
        other.execute("BEGIN IMMEDIATE")

        connects = pool.submit(engine.connect)
        with pytest.raises(TimeoutError):
            connects.result(timeout=0.3)  # it must neither fail nor pass while the lock is held
        other.commit()

        with connects.result(timeout=60) as connection:
            assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
    engine.dispose()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Engine]:
    """Make a SQLite file, whatever database the other tests have."""
    engine = make_engine(
        make_url(f"sqlite:///{tmp_path / 'app.sqlite'}"), limits=Limits(write_lock=60)
    )
    yield engine
    engine.dispose()


def test_without_waiting_a_held_lock_of_sqlite_is_reported_at_once(
    sqlite: Engine,
) -> None:
    with Session(sqlite) as first, Session(sqlite) as second:
        assert begin_writing(first, wait=False) is True
        assert begin_writing(second, wait=False) is False
        first.rollback()
        assert begin_writing(second, wait=False) is True
        # The connections wait for the lock as they did before.
        patience = [session.scalar(text("PRAGMA busy_timeout")) for session in (first, second)]

    assert patience == [60_000, 60_000]


def test_a_thread_that_waits_for_the_lock_is_woken_up_when_it_is_free(
    sqlite: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "RETRY_AFTER", 3_600.0)
    waiting = threading.Event()

    def write() -> bool:
        with Session(sqlite) as session:
            session.connection()
            waiting.set()
            return begin_writing(session)

    with Session(sqlite) as holder, ThreadPoolExecutor(1) as threads:
        begin_writing(holder)
        written = threads.submit(write)
        assert waiting.wait(60)
        holder.rollback()
        assert written.result(60)


def test_a_thread_has_no_part_in_the_lock_that_another_takes_by_its_last_connection(
    sqlite: Engine,
) -> None:
    with Session(sqlite) as session:  # this thread writes, and gives its connection back
        begin_writing(session)
    # Another thread gets it, and has begun, but has not noted that yet.
    next_user = sqlite.raw_connection()
    next_user.cursor().execute("BEGIN IMMEDIATE")
    waiters = Waiters(limit=1, seconds=0.01)

    with Session(sqlite) as session, pytest.raises(DatabaseBusyError):
        begin_writing(session, waiters)
    locking.end_left_transaction(sqlite)
    own: Any = next_user.dbapi_connection
    assert own.in_transaction
    next_user.close()


def test_another_reason_not_to_begin_is_an_error(sqlite: Engine) -> None:
    with Session(sqlite) as session:
        session.connection().exec_driver_sql("PRAGMA query_only = ON")

        with pytest.raises(OperationalError, match="readonly"):
            begin_writing(session)


def test_a_session_that_is_writing_already_goes_on(sqlite: Engine) -> None:
    with Session(sqlite) as session:
        assert begin_writing(session)
        assert begin_writing(session)


def test_the_folder_of_a_database_file_is_made(tmp_path: Path) -> None:
    file = tmp_path / "var" / "app.sqlite"
    engine = make_engine(make_url(f"sqlite:///{file}"))

    assert create_database(engine) is False

    engine.connect().close()
    engine.dispose()
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_an_unreachable_database_is_reported_with_cause_and_fix(tmp_path: Path) -> None:
    engine = make_engine(make_url(f"sqlite:///{tmp_path / 'missing' / 'app.sqlite'}"))

    with pytest.raises(DatabaseNotReadyError, match=r"cannot be reached.*fix"):
        require_reachable(engine)

    engine.dispose()
    assert list(tmp_path.iterdir()) == []


# The driver's message when the server closes a new connection.
CLOSED = {
    "postgresql": ("postgresql+psycopg", "server closed the connection unexpectedly"),
    "mysql": ("mysql+pymysql", "Lost connection to MySQL server"),
}
if DATABASE in CLOSED:

    def test_the_cause_is_named_when_a_server_closes_a_new_connection() -> None:
        driver, cause = CLOSED[DATABASE]

        def close_all(listener: socket.socket) -> None:
            with suppress(OSError):  # the listener is closed at the end
                while True:  # a driver may try several times
                    listener.accept()[0].close()

        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            threading.Thread(target=close_all, args=(listener,), daemon=True).start()
            engine = make_engine(
                make_url(f"{driver}://joe@127.0.0.1:{listener.getsockname()[1]}/app")
            )

            with pytest.raises(DatabaseNotReadyError, match=cause):
                require_reachable(engine)


def test_connections_in_use_are_closed_when_they_are_returned(database_url: str) -> None:
    engine = make_engine(make_url(database_url))
    closed: list[object] = []
    event.listen(engine, "close", lambda connection, _record: closed.append(connection))
    with engine.connect() as connection:
        in_use = connection.connection.dbapi_connection
        close_connections(engine)
        assert connection.scalar(text("SELECT 1")) == 1

    assert closed == [in_use]
    with engine.connect() as connection:  # it can still be used
        connection.execute(text("SELECT 1"))
    assert closed == [in_use]
    engine.dispose()
