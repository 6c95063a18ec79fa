"""`heartbeat check`: findings in order, and problems."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import make_url, select, text
from sqlalchemy.orm import Session

from data_flows import heartbeat
from data_flows.heartbeat.cli import main
from data_flows.heartbeat.models import DataFlow

from ..conftest import DATABASE
from ..factories import data_flow
from . import host
from .conftest import Command

ENGINE = Path(str(heartbeat.__file__)).parent
TOKEN = "a-token-for-tests-and-nothing-else"  # noqa: S105 - no secret
INI = """
[app:main]
use = egg:data_flows
sqlalchemy.url = {url}
{settings}

[server:main]
use = egg:waitress
threads = {threads}

[alembic]
script_location = data_flows:migrations
path_separator = os
"""

Check = Callable[..., Result]


@pytest.fixture
def check(tmp_path: Path, database_url: str) -> Check:
    """Call `heartbeat check` with settings, by default on the tests' migrated database."""

    def call(*, url: str = database_url, threads: int = 8, **settings: str) -> Result:
        given = {"token": TOKEN, **settings}
        ini = tmp_path / "app.ini"
        lines = [f"heartbeat.{name} = {value}" for name, value in given.items()]
        text = INI.format(url=url.replace("%", "%%"), threads=threads, settings="\n".join(lines))
        ini.write_text(text)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DATABASE_URL", url)
            result = CliRunner().invoke(main, ["check", "-c", str(ini)])
        assert TOKEN not in result.output
        return result

    return call


def test_all_is_in_order(check: Check) -> None:
    result = check()

    lines = result.output.splitlines()
    assert result.exit_code == 0, result.output
    assert all(line.startswith("ok ") for line in lines)
    for words in ("settings", "unchanged", "scheduler tokens: 1", "web threads: 8, "):
        assert any(words.rstrip(", ") in line for line in lines), words
    for words in ("heartbeat tables at revision 0", "your own migrations are applied", "flows: "):
        assert any(words in line for line in lines), words


def test_all_problems_of_settings_are_reported_and_nothing_is_started(check: Check) -> None:
    result = check(workers="none", waits="5s")

    assert result.exit_code == 1
    assert "heartbeat.workers is 'none'" in result.output
    assert "did you mean heartbeat.wait?" in result.output


def test_a_token_file_that_others_can_read_is_wrong(check: Check, tmp_path: Path) -> None:
    file = tmp_path / "beat.token"
    file.write_text("a-token-that-others-can-read\n")
    file.chmod(0o640)

    result = check(token_file=str(file))

    assert result.exit_code == 1
    assert f"wrong  others can read {file}: run `chmod 600 {file}`" in result.output
    file.chmod(0o600)
    assert check(token_file=str(file)).exit_code == 0


def test_no_token_at_all_is_wrong(check: Check) -> None:
    result = check(token="")

    assert result.exit_code == 1
    assert "wrong  no token is set up: the heartbeat answers 503" in result.output


def test_a_database_without_our_tables_is_wrong_and_stays_so(check: Check, tmp_path: Path) -> None:
    file = tmp_path / "empty.sqlite"

    result = check(url=f"sqlite:///{file}")

    assert result.exit_code == 1
    assert "wrong  " in result.output
    assert "run `heartbeat migrate`" in result.output
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT * FROM sqlite_master").fetchall() == []
    connection.close()


def test_a_database_that_is_away_is_wrong_without_its_password(
    check: Check, tmp_path: Path
) -> None:
    result = check(url=f"sqlite:///{tmp_path}/missing/app.sqlite")

    assert result.exit_code == 1
    assert "cannot be reached" in result.output


def test_a_single_web_thread_is_wrong(check: Check) -> None:
    result = check(threads=1)

    assert result.exit_code == 1
    assert "wrong  web threads: 1 (each waiting beat holds one), workers: 4" in result.output


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Copy the engine, so that its files can be changed."""
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(ENGINE, tmp_path / "copied" / "heartbeat", ignore=ignored))


def changed_in(copy: Path) -> list[str]:
    """Ask a copy of the engine for its changed files, in a process of its own."""
    code = (
        "from heartbeat.optional.checks.files import changed_files; "
        "print(*changed_files(), sep='\\n')"
    )
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-B", "-W", "ignore", "-c", code],
        cwd=copy.parent,
        capture_output=True,
        check=True,
        text=True,
    )
    return done.stdout.split()


def test_the_engine_as_it_came_is_unchanged(copy: Path) -> None:
    assert changed_in(copy) == []


def test_changed_missing_and_added_files_are_named(copy: Path) -> None:
    (copy / "clock.py").write_text((copy / "clock.py").read_text() + "\n")
    (copy / "migrations" / "script.py.mako").unlink()
    (copy / "views" / "mine.py").write_text("")

    assert changed_in(copy) == ["clock.py", "migrations/script.py.mako", "views/mine.py"]


def test_a_checkout_with_other_line_ends_is_unchanged(copy: Path) -> None:
    for file in filter(Path.is_file, copy.rglob("*")):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))

    assert changed_in(copy) == []


def test_files_outside_the_engine_do_not_count(copy: Path) -> None:
    for name in (
        *(".DS_Store", "views/.DS_Store", "views/._beat.py", "Thumbs.db", "desktop.ini"),
        *("__pycache__/clock.cpython-311.pyc", "views/__pycache__/beat.cpython-313.opt-1.pyc"),
        *("clock.py~", "#clock.py#", ".#clock.py", ".clock.py.swp", "4913", "clock.py.orig"),
        *(".ipynb_checkpoints/clock-checkpoint.py", ".idea/workspace.xml", ".mypy_cache/x.json"),
    ):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("left behind")

    assert changed_in(copy) == []


def test_an_engine_without_its_manifest_is_reported(copy: Path) -> None:
    (copy / "MANIFEST").unlink()

    assert changed_in(copy) == ["MANIFEST"]


def test_check_reports_what_is_in_order(command: Command) -> None:
    command("beat")

    result = command("check")

    assert result.exit_code == 0, result.output
    assert "ok     settings" in result.output
    assert f"ok     engine {heartbeat.VERSION}, unchanged\n" in result.output
    assert ", heartbeat tables at revision 0" in result.output
    assert "flows: 2 registered, 2 rows" in result.output


def test_check_of_a_database_that_is_not_migrated_exits_with_1_and_one_clear_line(
    command: Command, fresh_database: Path
) -> None:
    result = command("check")

    [wrong] = [line for line in result.output.splitlines() if line.startswith("wrong ")]
    assert result.exit_code == 1
    assert str(fresh_database) in wrong
    assert "run `heartbeat migrate`" in wrong


def test_check_of_a_flow_without_a_handler_exits_with_1_and_names_the_solution(
    command: Command, dbsession: Session
) -> None:
    dbsession.add(data_flow(name="stray"))
    dbsession.commit()

    result = command("check")

    [wrong] = [line for line in result.output.splitlines() if line.startswith("wrong ")]
    assert result.exit_code == 1
    assert "flow 'stray' needs the handler " in wrong
    fixes = ("fix its declaration in flows/", "deletes it and its history")
    assert wrong.index(fixes[0]) < wrong.index("`heartbeat remove stray`") < wrong.index(fixes[1])


def test_check_writes_nothing(command: Command, dbsession: Session) -> None:
    assert command("check").exit_code == 0

    assert dbsession.scalars(select(DataFlow.id)).all() == []


@pytest.mark.usefixtures("somebody_writes")
def test_check_does_not_wait_for_a_writer(command: Command) -> None:
    result = command("check", flows="good", **{"heartbeat.lease": "3s"})

    assert result.exit_code == 0, result.output


def test_p16_a_row_whose_handler_is_not_registered_is_shown(
    command: Command, dbsession: Session
) -> None:
    dbsession.add(data_flow(name="stray", handler="os.system"))
    dbsession.commit()

    result = command("check")

    assert "stray" in result.output
    assert "handler 'os.system'" in result.output
    assert "not registered" in result.output


def test_a_host_whose_migrations_are_its_own_affair_is_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    ini = tmp_path / "host.ini"
    ini.write_text(
        f"[app:main]\nuse = call:{host.__name__}:main\n"
        f"sqlalchemy.url = sqlite:///{tmp_path}/host.sqlite\n"
        f"heartbeat.token = {TOKEN}\n[server:main]\nuse = egg:waitress\nthreads = 8\n"
    )
    CliRunner().invoke(main, ["migrate", "-c", str(ini)])
    with sqlite3.connect(tmp_path / "host.sqlite") as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('the-hosts-own')")
    connection.close()

    checked = CliRunner().invoke(main, ["check", "-c", str(ini)])

    assert checked.exit_code == 0, checked.output


def test_a_database_that_cannot_hold_any_unicode_is_named(
    check: Check, narrow_url: str, character_set: str
) -> None:
    result = check(url=narrow_url)

    if character_set in {"LATIN1", "SQL_ASCII"}:
        assert result.exit_code == 1
        codec = {"LATIN1": "iso8859-1", "SQL_ASCII": "ascii"}[character_set]
        assert f"wrong  text is stored as {codec}, and other characters as escapes" in result.output
    else:
        assert result.exit_code == 0, result.output
        assert "ok     texts may hold any Unicode" in result.output


if DATABASE == "mysql":

    def test_a_column_that_cannot_hold_any_unicode_is_named(
        check: Check, narrow_url: str, dbsession: Session
    ) -> None:
        url = make_url(narrow_url)
        change = "ALTER TABLE {}.data_flow_runs MODIFY log TEXT CHARACTER SET latin1"
        dbsession.execute(text(change.format(url.database)))

        result = check(url=narrow_url)

        assert result.exit_code == 1
        assert (
            "wrong  not every character can be stored in data_flow_runs.log: give the columns the "
            "charset utf8mb4" in result.output
        )

    def test_a_character_set_in_the_url_is_named(check: Check, narrow_url: str) -> None:
        result = check(url=f"{narrow_url}?charset=latin1")

        assert result.exit_code == 1
        assert "wrong  text is stored as cp1252" in result.output
