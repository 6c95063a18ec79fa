"""The command `heartbeat`: what each of its commands does, prints and exits with."""

import json
import runpy
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import select
from sqlalchemy.orm import Session

from {{cookiecutter.project_slug}} import (
    heartbeat,
)
from {{cookiecutter.project_slug}}.heartbeat.cli import (
    main,
)
from {{cookiecutter.project_slug}}.heartbeat.db import (
    begin_writing,
)
from {{cookiecutter.project_slug}}.heartbeat.models import (
    DataFlow,
    DataFlowBeat,
    DataFlowRun,
)

from ...factories import NOON, data_flow, data_flow_run
from .conftest import Command

COMMANDS = ["beat", "flows", "runs", "run", "remove", "migrate", "check"]
NAMED = {"run": ["good"], "remove": ["good"]}


@pytest.fixture
def fresh_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the commands find a database that was never migrated."""
    file = tmp_path / "fresh.sqlite"
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{file}")
    return file


def printed(result: Any) -> Any:
    """Return the JSON that a command printed."""
    return json.loads(result.stdout)


# ---------------------------------------------------------------------------------------------
# All of them


@pytest.mark.parametrize("text", ["", "[app:other]\nuse = egg:pyramid\n", "x"])
def test_an_ini_file_that_cannot_be_used_is_told_without_a_traceback(
    tmp_path: Path, text: str
) -> None:
    ini_file = tmp_path / "broken.ini"
    ini_file.write_text(text)

    result = CliRunner().invoke(main, ["flows", "-c", str(ini_file)])

    assert result.exit_code == 2
    assert "cannot be used: " in result.output.replace("\n", " ")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_ini_file_is_named_with_the_mend(name: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.ini")

    result = CliRunner().invoke(main, [name, *NAMED.get(name, []), "-c", missing])

    assert result.exit_code == 2
    assert missing in result.output
    assert "name it with -c" in result.output


# `migrate` reads no setting but the database.
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "migrate"])
def test_a_wrong_setting_is_told_in_words_and_not_by_a_traceback(
    name: str, command: Command
) -> None:
    result = command(name, *NAMED.get(name, []), **{"heartbeat.workers": "many"})

    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "heartbeat.workers is 'many'" in result.output


@pytest.mark.parametrize("name", ["beat", "flows", "runs", "run", "remove"])
def test_a_database_that_is_not_migrated_is_told_with_the_command(
    name: str, command: Command, fresh_database: Path
) -> None:
    result = command(name, *NAMED.get(name, []))

    assert result.exit_code == 1
    [line] = result.output.splitlines()
    assert line.startswith("Error: ")
    assert str(fresh_database) in line
    assert "run `heartbeat migrate`" in line


@pytest.mark.parametrize("name", ["beat", "flows", "runs", "run", "remove"])
def test_a_database_that_cannot_be_reached_is_told_with_the_mend(
    name: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'no-folder' / 'app.sqlite'}")

    result = command(name, *NAMED.get(name, []))

    assert result.exit_code == 1
    [line] = result.output.splitlines()
    assert "cannot be reached (there is no such file)" in line
    assert "mend sqlalchemy.url or DATABASE_URL" in line


def test_the_package_can_be_run_as_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["heartbeat", "--help"])

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
    [reply] = printed(result)
    assert (reply["flows_due"], reply["flows_succeeded"]) == (1, 1)
    assert dbsession.scalars(select(DataFlowRun.result)).one() == {"rows": 3}
    assert dbsession.scalars(select(DataFlowBeat.source)).one() == "command line"


def test_beat_exits_with_1_when_a_run_failed(command: Command) -> None:
    result = command("beat", flows="good bad")

    assert result.exit_code == 1
    assert "flows_failed" in result.output


def test_beat_waits_for_its_runs_whatever_the_setting_says(command: Command) -> None:
    result = command("beat", "--json", flows="good", **{"heartbeat.wait": "0"})

    [reply] = printed(result)
    assert (reply["flows_succeeded"], reply["flows_in_progress"]) == (1, 0)


# ---------------------------------------------------------------------------------------------
# flows


def test_flows_lists_what_is_declared_before_the_first_beat(command: Command) -> None:
    result = command("flows")

    assert result.exit_code == 0
    for part in ("good", "bad", "every 5m", "enabled", "Count three rows."):
        assert part in result.output


def test_flows_prints_all_members_as_json(command: Command, dbsession: Session) -> None:
    dbsession.add(data_flow(name="off", handler="good", enabled=False, run_interval=90))
    dbsession.add(data_flow(name="stray", last_run_at=NOON, last_run_status="failed"))
    dbsession.commit()

    result = command("flows", "--json", flows="good")

    shown = {flow["name"]: flow for flow in printed(result)}
    assert list(shown) == ["good", "off", "stray"]
    assert (shown["off"]["state"], shown["off"]["schedule"]) == ("disabled", "every 90s")
    assert shown["off"]["next run (UTC)"] is None
    assert shown["stray"]["state"] == "handler 'stray' not registered"
    assert shown["stray"]["last run (UTC)"] == NOON.isoformat()
    assert shown["stray"]["last status"] == "failed"


def test_flows_says_that_there_are_none(command: Command) -> None:
    result = command("flows", flows="")

    assert (result.exit_code, result.output) == (0, "no flows\n")


@pytest.mark.parametrize("arguments", [["flows"], ["runs"], ["check"]])
def test_what_only_reads_does_not_wait_for_who_writes(
    command: Command, dbsession: Session, arguments: list[str]
) -> None:
    command("flows", flows="good")
    if dbsession.get_bind().dialect.name == "sqlite":
        begin_writing(dbsession)
    else:
        dbsession.scalars(select(DataFlow).with_for_update()).all()

    result = command(*arguments, flows="good", **{"heartbeat.lease": "3s"})

    assert result.exit_code == 0, result.output


# ---------------------------------------------------------------------------------------------
# run


def test_run_runs_a_flow_now_and_leaves_its_schedule(command: Command, dbsession: Session) -> None:
    command("beat", flows="good")
    before = dbsession.scalars(select(DataFlow.next_run_at)).one()
    dbsession.rollback()

    result = command("run", "good", "--json")

    [run] = printed(result)
    assert result.exit_code == 0
    assert (run["flow"], run["status"], run["result"]) == ("good", "success", {"rows": 3})
    row = dbsession.get_one(DataFlowRun, run["id"])
    assert (row.trigger, row.scheduled_for) == ("manual", None)
    assert row.data_flow.next_run_at == before


def test_run_of_a_flow_that_fails_exits_with_1_and_tells_the_error(command: Command) -> None:
    result = command("run", "bad", "--json")

    [run] = printed(result)
    assert result.exit_code == 1
    assert (run["status"], run["error"]) == ("failed", "LookupError: no such bird")


@pytest.mark.parametrize("name", ["nope", "", "Good", "x" * 5_000, "Käuzchen 🦉", "' OR 1"])
@pytest.mark.parametrize("command_name", ["run", "remove"])
def test_an_unknown_flow_is_told_with_where_to_look(
    command: Command, dbsession: Session, command_name: str, name: str
) -> None:
    command("flows")

    result = command(command_name, name)

    assert result.exit_code == 1
    assert f"no flow is called {name!r}: `heartbeat flows` lists them" in result.output
    assert len(dbsession.scalars(select(DataFlow.id)).all()) == 2


def test_run_of_a_flow_without_a_handler_is_told_with_the_mend(
    command: Command, dbsession: Session
) -> None:
    dbsession.add(data_flow(name="stray"))
    dbsession.commit()

    result = command("run", "stray")

    assert result.exit_code == 1
    assert "'stray', which is not registered" in result.output
    assert "heartbeat remove stray" in result.output


def test_run_of_a_flow_that_is_at_work_is_refused(command: Command, dbsession: Session) -> None:
    flow = data_flow(name="good")
    dbsession.add(
        data_flow_run(
            data_flow=flow, status="in_progress", lease_expires_at=NOON + timedelta(days=36500)
        )
    )
    dbsession.commit()

    result = command("run", "good")

    assert result.exit_code == 1
    assert "has a run that has not ended: wait for it" in result.output
    assert len(dbsession.scalars(select(DataFlowRun.id)).all()) == 1


# ---------------------------------------------------------------------------------------------
# runs


@pytest.fixture
def history(command: Command) -> None:
    """Run each flow, and the good one twice."""
    command("beat")
    command("run", "good")


@pytest.mark.usefixtures("history")
def test_runs_shows_the_newest_first(command: Command) -> None:
    runs = printed(command("runs", "--json"))

    assert [run["id"] for run in runs] == sorted((run["id"] for run in runs), reverse=True)
    assert (runs[0]["name"], runs[0]["trigger"]) == ("good", "manual")
    assert len(runs) == 3


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--flow", "good"], ["good", "good"]),
        (["--status", "failed"], ["bad"]),
        (["--status", "pending"], []),
        (["--flow", "good", "--status", "failed"], []),
        (["--limit", "1"], ["good"]),
    ],
)
def test_runs_can_be_narrowed(command: Command, arguments: list[str], names: list[str]) -> None:
    runs = printed(command("runs", "--json", *arguments))

    assert [run["name"] for run in runs] == names


@pytest.mark.usefixtures("history")
def test_runs_shows_results_and_errors_to_people(command: Command) -> None:
    result = command("runs")

    assert "LookupError: no such bird" in result.output
    assert "{'rows': 3}" in result.output


def test_runs_says_that_there_are_none(command: Command) -> None:
    assert command("runs").output == "no runs\n"
    assert printed(command("runs", "--json")) == []


@pytest.mark.parametrize(
    "arguments", [["--status", "lost"], ["--limit", "many"], ["--limit", "-1"], ["--limit", "0"]]
)
def test_a_wrong_option_of_runs_is_refused_by_name(command: Command, arguments: list[str]) -> None:
    result = command("runs", *arguments)

    assert result.exit_code == 2
    assert f"Invalid value for '{arguments[0]}'" in result.output


def test_runs_of_a_flow_that_does_not_exist_is_an_error(command: Command) -> None:
    result = command("runs", "--flow", "nope")

    assert result.exit_code == 1
    assert "no flow is called 'nope'" in result.output


# ---------------------------------------------------------------------------------------------
# remove


@pytest.mark.usefixtures("history")
def test_remove_takes_a_flow_and_its_history(command: Command, dbsession: Session) -> None:
    result = command("remove", "good", flows="bad")

    assert (result.exit_code, result.output) == (0, "removed good and its 2 runs\n")
    assert dbsession.scalars(select(DataFlow.name)).all() == ["bad"]
    assert [run.data_flow.name for run in dbsession.scalars(select(DataFlowRun))] == ["bad"]


def test_remove_says_when_the_flow_is_still_declared(command: Command) -> None:
    command("flows")

    result = command("remove", "good")

    assert result.exit_code == 0
    assert "still declared in " in result.output
    assert "delete it there, or it comes back" in result.output


# ---------------------------------------------------------------------------------------------
# migrate and check


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


def test_check_tells_what_is_in_order(command: Command) -> None:
    command("flows")

    result = command("check")

    assert result.exit_code == 0, result.output
    assert "ok     settings" in result.output
    assert f"engine {heartbeat.VERSION}, unchanged" in result.output
    assert "flows: 2 registered, 2 rows" in result.output


def test_check_of_a_database_that_is_not_migrated_exits_with_1_and_one_clear_line(
    command: Command, fresh_database: Path
) -> None:
    result = command("check")

    [wrong] = [line for line in result.output.splitlines() if line.startswith("wrong ")]
    assert result.exit_code == 1
    assert str(fresh_database) in wrong
    assert "run `heartbeat migrate`" in wrong


def test_check_of_a_flow_without_a_handler_exits_with_1_and_names_the_mend(
    command: Command, dbsession: Session
) -> None:
    dbsession.add(data_flow(name="stray"))
    dbsession.commit()

    result = command("check")

    [wrong] = [line for line in result.output.splitlines() if line.startswith("wrong ")]
    assert result.exit_code == 1
    assert "flow stray" in wrong
    assert "heartbeat remove stray" in wrong


def test_check_writes_nothing(command: Command, dbsession: Session) -> None:
    assert command("check").exit_code == 0

    assert dbsession.scalars(select(DataFlow.id)).all() == []


def test_migrate_of_a_missing_folder_makes_it(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "var" / "app.sqlite"
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{file}")

    assert command("migrate").exit_code == 0
    assert file.is_file()


def test_a_setting_that_does_not_exist_is_named(ini_file: Callable[..., Path]) -> None:
    file = ini_file("good", **{"heartbeat.tokn": "hunter2"})

    result = CliRunner().invoke(main, ["check", "-c", str(file)])

    assert result.exit_code == 1
    assert "heartbeat.tokn" in result.output
    assert "hunter2" not in result.output
