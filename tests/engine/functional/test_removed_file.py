"""A SQLite file that is removed or replaced while the application serves."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError
from webtest import TestApp

from data_flows.heartbeat.db import make_engine

from ..conftest import FakeClock, MakeApp
from .conftest import Command
from .operated import AS_OPERATOR, SECRET, count

Post = Callable[..., Any]


@pytest.fixture
def app(make_app: MakeApp, command: Command, fresh_database: Path, post: Post) -> TestApp:
    """Make an application whose flow has run once, in a database of its own."""
    assert fresh_database.parent.is_dir()
    assert command("migrate").exit_code == 0
    app = make_app((count, {"every": "1m"}), **SECRET)
    assert post(app).json["flows_succeeded"] == 1
    return app


def remove(file: Path) -> None:
    for name in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
        name.unlink(missing_ok=True)


def back_up(file: Path, to: Path) -> None:
    """Copy a database that is in use, as SQLite does it."""
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


def count_runs(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        number: int = connection.execute("SELECT count(*) FROM data_flow_runs").fetchone()[0]
    return number


@pytest.mark.parametrize("away", [remove, lambda file: shutil.move(file, f"{file}.old")])
def test_a_removed_file_is_answered_503_and_not_created_again(
    app: TestApp, post: Post, fresh_database: Path, away: Callable[[Path], object]
) -> None:
    away(fresh_database)

    for _ in range(3):
        for reply in (
            post(app, status=503),
            app.get("/heartbeat/flows/count", headers=AS_OPERATOR, status=503),
        ):
            assert str(fresh_database) in reply.json["detail"]
            assert "there is no such file" in reply.json["detail"]
            assert "run `heartbeat migrate`" in reply.json["detail"]
            assert reply.headers["Retry-After"].isdecimal()
    assert not fresh_database.exists()


def test_after_the_fix_the_flows_run_again(
    app: TestApp, post: Post, fresh_database: Path, command: Command, clock: FakeClock
) -> None:
    remove(fresh_database)
    post(app, status=503)

    assert command("migrate").exit_code == 0

    assert post(app).json["flows_succeeded"] == 1
    clock.advance(60)
    assert post(app).json["flows_succeeded"] == 1
    assert count_runs(fresh_database) == 2


def test_a_new_database_that_no_call_has_missed_gets_the_flows_too(
    app: TestApp, post: Post, fresh_database: Path, command: Command
) -> None:
    remove(fresh_database)
    assert command("migrate").exit_code == 0

    replies = [post(app).json for _ in range(2)]

    assert sum(reply["flows_succeeded"] for reply in replies) == 1
    assert count_runs(fresh_database) == 1


@pytest.mark.parametrize("copy", [back_up, shutil.copyfile])
def test_a_copy_in_the_place_of_the_file_is_served(
    app: TestApp,
    post: Post,
    fresh_database: Path,
    clock: FakeClock,
    copy: Callable[[Path, Path], object],
) -> None:
    old, new = (fresh_database.with_name(name) for name in ("old.sqlite", "new.sqlite"))
    copy(fresh_database, new)
    shutil.move(fresh_database, old)
    shutil.move(new, fresh_database)
    content = old.read_bytes()

    for minute in range(1, 4):
        clock.advance(60)
        assert post(app).json["flows_succeeded"] == 1
        assert count_runs(fresh_database) == 1 + minute
    assert old.read_bytes() == content


def test_a_file_that_is_moved_back_is_served_again(
    app: TestApp, post: Post, fresh_database: Path, tmp_path: Path, clock: FakeClock
) -> None:
    shutil.move(fresh_database, tmp_path / "elsewhere")
    post(app, status=503)
    shutil.move(tmp_path / "elsewhere", fresh_database)
    clock.advance(60)

    assert post(app).json["flows_succeeded"] == 1
    assert count_runs(fresh_database) == 2


def test_the_projects_own_engine_makes_no_empty_file_either(tmp_path: Path) -> None:
    file = tmp_path / "own.sqlite"
    engine = make_engine(make_url(f"sqlite:///{file}"))
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        remove(file)  # also while a connection is in use: the next one is new

        with pytest.raises(OperationalError, match="was removed"), engine.connect():
            pass
    with pytest.raises(OperationalError, match="was removed"), engine.connect():
        pass

    assert not file.exists()
    engine.dispose()
