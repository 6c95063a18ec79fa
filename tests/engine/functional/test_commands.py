"""The command `heartbeat`: what each of its commands does, prints and exits with."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import select
from sqlalchemy.orm import Session

from data_flows import heartbeat
from data_flows.heartbeat.cli import main
from data_flows.heartbeat.models import DataFlowBeat, DataFlowRun

from .conftest import Command

# Some are optional; what each of those does alone is tested in a file of its own.
OPTIONAL = ("flows", "runs", "beats", "run", "remove")
WORKING = ["beat", *(name for name in OPTIONAL if name in main.commands)]
COMMANDS = [*WORKING, "migrate", *(name for name in ("check",) if name in main.commands)]
NAMED = {"run": ["good"], "remove": ["good"]}


def printed(result: Any) -> Any:
    """Return the JSON that a command printed."""
    return json.loads(result.stdout)


# ---------------------------------------------------------------------------------------------
# All of them


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    "text", [b"", b"[app:other]\nuse = egg:pyramid\n", b"x", b"\xff", b"[app:main]\nuse = a%b"]
)
def test_an_ini_file_that_cannot_be_used_is_reported_in_one_line(
    tmp_path: Path, name: str, text: bytes
) -> None:
    ini_file = tmp_path / "broken.ini"
    ini_file.write_bytes(text)

    result = CliRunner().invoke(main, [name, *NAMED.get(name, []), "-c", str(ini_file)])

    [line] = result.stderr.splitlines()
    assert result.exit_code == 2
    assert line.startswith(f"Error: {ini_file} cannot be used: ")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_ini_file_is_named_with_the_solution(name: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.ini")

    result = CliRunner().invoke(main, [name, *NAMED.get(name, []), "-c", missing])

    [line] = result.stderr.splitlines()
    assert result.exit_code == 2
    assert missing in line
    assert "name it with -c or HEARTBEAT_CONFIG" in line


def test_the_ini_file_is_named_by_the_environment_too(
    ini_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEARTBEAT_CONFIG", str(ini_file("good")))

    beaten = CliRunner().invoke(main, ["beat", "--json"])
    named = CliRunner().invoke(main, ["beat", "-c", "missing.ini"])

    assert printed(beaten)["flows_succeeded"] == 1
    assert "there is no file missing.ini" in named.stderr


# `migrate` reads no flow.
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "migrate"])
def test_a_declaration_that_cannot_work_is_reported_in_one_line(
    name: str, command: Command
) -> None:
    result = command(name, *NAMED.get(name, []), flows="good wrong")

    [line] = result.stderr.splitlines()
    assert result.exit_code == 1
    assert line.startswith("Error: ")
    assert "conftest.py, line " in line
    assert "every is '5 minutes'" in line


def test_an_unexpected_error_is_one_line_with_its_place(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        message = "postgresql://joe:hunter2@db\nbroke"
        raise ValueError(message)

    # The command hides the name of its module.
    monkeypatch.setattr(sys.modules[f"{heartbeat.__name__}.cli.beat"], "run_beat", fail)

    result = command("beat", "--json")

    [line] = result.stderr.splitlines()
    assert result.exit_code == 1
    place = f"Error: {__file__}, line {fail.__code__.co_firstlineno + 2}: "
    reported = "ValueError: postgresql://***@db broke (--debug shows the traceback)"
    assert line == place + reported


# `migrate` reads no setting but the database.
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "migrate"])
def test_a_wrong_setting_is_reported_in_words_and_not_by_a_traceback(
    name: str, command: Command
) -> None:
    result = command(name, *NAMED.get(name, []), **{"heartbeat.workers": "many"})

    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "heartbeat.workers is 'many'" in result.output


@pytest.mark.parametrize("name", WORKING)
def test_a_database_that_is_not_migrated_is_reported_with_the_command(
    name: str, command: Command, fresh_database: Path
) -> None:
    result = command(name, *NAMED.get(name, []))

    assert result.exit_code == 1
    [line] = result.output.splitlines()
    assert line.startswith("Error: ")
    assert str(fresh_database) in line
    assert "run `heartbeat migrate`" in line


@pytest.mark.parametrize("name", WORKING)
def test_a_database_that_cannot_be_reached_is_reported_with_the_solution(
    name: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'no-folder' / 'app.sqlite'}")

    result = command(name, *NAMED.get(name, []))

    assert result.exit_code == 1
    [line] = result.output.splitlines()
    assert "cannot be reached (there is no such file)" in line
    assert "fix sqlalchemy.url or DATABASE_URL" in line


def test_the_package_can_be_run_as_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["heartbeat", "--help"])
    # Where a test has scanned the package, it is imported already.
    monkeypatch.delitem(sys.modules, f"{heartbeat.__name__}.__main__", raising=False)

    with pytest.raises(SystemExit) as caught:
        runpy.run_module(heartbeat.__name__, run_name="__main__")

    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])

    assert result.exit_code == 0
    assert "--config" in result.output


# ---------------------------------------------------------------------------------------------
# beat


def test_beat_runs_what_is_due_and_prints_the_counts(command: Command, dbsession: Session) -> None:
    result = command("beat", "--json", flows="good")

    assert result.exit_code == 0
    reply = printed(result)
    assert (reply["flows_due"], reply["flows_succeeded"]) == (1, 1)
    assert dbsession.scalars(select(DataFlowRun.result)).one() == {"rows": 3}
    assert dbsession.scalars(select(DataFlowBeat.source)).one() == "command line"


def test_beat_exits_with_1_when_a_run_failed(command: Command) -> None:
    result = command("beat", flows="good bad")

    assert result.exit_code == 1
    assert "flows_failed" in result.output


@pytest.mark.local_executor("with Celery, the command waits as long as the setting says")
def test_beat_waits_for_its_runs_whatever_the_setting(command: Command) -> None:
    result = command("beat", "--json", flows="good", **{"heartbeat.wait": "0"})

    reply = printed(result)
    assert (reply["flows_succeeded"], reply["flows_in_progress"]) == (1, 0)


# ---------------------------------------------------------------------------------------------
# migrate


def test_migrate_makes_a_database_that_works(command: Command, fresh_database: Path) -> None:
    result = command("migrate")

    assert result.exit_code == 0, result.output
    assert "the heartbeat's tables are up to date" in result.output
    assert fresh_database.is_file()
    assert command("beat", flows="good").exit_code == 0


@pytest.mark.usefixtures("fresh_database")
def test_migrate_may_be_called_again(command: Command) -> None:
    assert command("migrate").exit_code == 0

    assert command("migrate").exit_code == 0


def test_migrate_of_a_missing_folder_makes_it(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "var" / "app.sqlite"
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{file}")

    assert command("migrate").exit_code == 0
    assert file.is_file()


def test_a_setting_that_does_not_exist_is_named(ini_file: Callable[..., Path]) -> None:
    file = ini_file("good", **{"heartbeat.tokn": "hunter2"})

    result = CliRunner().invoke(main, ["beat", "-c", str(file)])

    assert result.exit_code == 1
    assert "heartbeat.tokn" in result.output
    assert "hunter2" not in result.output
