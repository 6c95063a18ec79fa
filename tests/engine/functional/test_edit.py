"""The commands that change flows, and `why`: what each does, prints and exits with."""

import json
from datetime import timedelta

import pytest
from click.testing import CliRunner
from sqlalchemy import select
from sqlalchemy.orm import Session

from data_flows.heartbeat.cli import main
from data_flows.heartbeat.models import DataFlow, DataFlowRun

from ..factories import NOON, data_flow_run
from .conftest import Command

NAMED = {
    "add": ["x", "--handler", "good", "--every", "5m"],
    "change": ["good", "--every", "10m"],
    "rename": ["good", "x"],
    "remove": ["good"],
    "reset": ["good"],
    "pause": ["good"],
    "resume": ["good"],
    "why": ["good"],
}


def row_of(dbsession: Session, name: str) -> DataFlow:
    """Return a flow's row as it is now."""
    dbsession.rollback()
    return dbsession.scalars(select(DataFlow).where(DataFlow.name == name)).one()


# ---------------------------------------------------------------------------------------------
# All of them


@pytest.mark.parametrize("name", NAMED)
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])

    assert result.exit_code == 0
    assert "--config" in result.output
    assert " NAME" in result.output


@pytest.mark.parametrize("name", NAMED)
def test_a_wrong_setting_is_reported_in_words(name: str, command: Command) -> None:
    result = command(name, *NAMED[name], **{"heartbeat.workers": "many"})

    assert result.exit_code == 1
    assert result.output.startswith("Error: ")


@pytest.mark.parametrize("name", [name for name in NAMED if name != "add"])
def test_a_flow_that_does_not_exist_is_one_clear_line(name: str, command: Command) -> None:
    result = command(name, "nope", *NAMED[name][1:])

    assert result.exit_code == 1
    assert result.output == "Error: no flow is called 'nope': `heartbeat flows` lists them\n"


@pytest.mark.parametrize("name", ["", "Good", "x" * 5_000, "Käuzchen 🦉", "' OR 1"])
def test_an_unknown_flow_leaves_those_that_are_there(
    command: Command, dbsession: Session, name: str
) -> None:
    result = command("remove", name)

    assert result.exit_code == 1
    assert f"no flow is called {name!r}: `heartbeat flows` lists them" in result.output
    assert len(dbsession.scalars(select(DataFlow.id)).all()) == 2


# ---------------------------------------------------------------------------------------------
# add and rename


def test_add_makes_a_flow_with_its_own_configuration(command: Command, dbsession: Session) -> None:
    pairs = ["region=eu", "limit=5", 'zip="01234"', "note=a=b", 'deep={"a": [true]}', "empty="]
    settings = [word for pair in pairs for word in ("--set", pair)]

    result = command("add", "good eu", "--handler", "good", "--every", "10m", *settings)

    assert (result.exit_code, result.output) == (0, "added good eu\n")
    row = row_of(dbsession, "good eu")
    assert (row.handler, row.run_interval, row.cron) == ("good", 600, None)
    assert row.configuration == {
        "region": "eu",
        "limit": 5,
        "zip": "01234",
        "note": "a=b",
        "deep": {"a": [True]},
        "empty": "",
    }


def test_a_flow_that_was_added_runs_with_the_next_beat(command: Command) -> None:
    command("add", "more", "--handler", "good", "--every", "10m")

    command("beat", flows="good")

    runs = json.loads(command("runs", "--flow", "more", "--json").stdout)
    assert [(run["status"], run["result"]) for run in runs] == [("success", {"rows": 3})]


def test_add_takes_cron_in_a_zone(command: Command, dbsession: Session) -> None:
    command("add", "x", "--handler", "good", "--cron", "0 3 * * *", "--timezone", "Asia/Tokyo")

    row = row_of(dbsession, "x")
    assert (row.run_interval, row.cron, row.timezone) == (None, "0 3 * * *", "Asia/Tokyo")
    assert row.next_run_at.hour == 18


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (["x", "--handler", "good"], "Error: every: give either every or cron"),
        (["x", "--handler", "nope", "--every", "5m"], "Error: handler: 'nope' is not registered"),
        (
            ["x", "--handler", "good", "--every", "soon"],
            "Error: every: 'soon' is not a valid",
        ),
        (["good", "--handler", "good", "--every", "5m"], "Error: there is a flow 'good' already"),
    ],
)
def test_what_cannot_be_added_is_reported_in_one_line(
    command: Command, dbsession: Session, arguments: list[str], reported: str
) -> None:
    result = command("add", *arguments)

    assert result.exit_code == 1
    assert result.output.startswith(reported)
    assert len(result.output.splitlines()) == 1
    assert len(dbsession.scalars(select(DataFlow.id)).all()) == 2


def test_a_part_of_the_configuration_needs_a_value(command: Command) -> None:
    result = command("add", "x", "--handler", "good", "--every", "5m", "--set", "region")

    assert result.exit_code == 2
    assert "'region' is not KEY=VALUE" in result.output


def test_rename_keeps_the_history_and_states_what_comes_back(
    command: Command, dbsession: Session
) -> None:
    command("beat", flows="good")

    result = command("rename", "good", "better")

    assert result.exit_code == 0
    assert result.output.startswith("renamed good to better\ngood is still declared in ")
    assert "delete it there, or it comes back" in result.output
    assert dbsession.scalars(select(DataFlowRun)).one().data_flow.name == "better"


@pytest.mark.parametrize(
    ("new", "reported"), [("bad", "there is a flow 'bad' already"), ("a/b", "name: String should")]
)
def test_an_invalid_name_is_one_clear_line(command: Command, new: str, reported: str) -> None:
    result = command("rename", "good", new)

    assert result.exit_code == 1
    [line] = result.output.splitlines()
    assert line.startswith(f"Error: {reported}")


# ---------------------------------------------------------------------------------------------
# remove


def test_remove_takes_a_flow_and_its_history(command: Command, dbsession: Session) -> None:
    command("beat")
    command("run", "good")

    result = command("remove", "good", flows="bad")

    assert (result.exit_code, result.output) == (0, "removed good and its 2 runs\n")
    assert dbsession.scalars(select(DataFlow.name)).all() == ["bad"]
    assert [run.data_flow.name for run in dbsession.scalars(select(DataFlowRun))] == ["bad"]


def test_remove_states_when_the_flow_is_still_declared(command: Command) -> None:
    result = command("remove", "good")

    assert result.exit_code == 0
    assert "still declared in " in result.output
    assert "delete it there, or it comes back" in result.output


# ---------------------------------------------------------------------------------------------
# pause, resume and reset


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "paused from the command line"),
        (["--reason", "deploy"], "paused from the command line: deploy"),
    ],
)
def test_a_paused_flow_is_not_due_until_it_is_resumed(
    command: Command, dbsession: Session, arguments: list[str], reason: str
) -> None:
    paused = command("pause", "good", *arguments)
    row = row_of(dbsession, "good")
    assert (row.enabled, row.disabled_reason) == (False, reason)
    held = json.loads(command("beat", "--json").stdout)["flows_triggered"]

    resumed = command("resume", "good")
    row = row_of(dbsession, "good")
    assert (row.enabled, row.disabled_reason) == (True, None)

    assert (paused.output, resumed.output) == ("good is disabled\n", "good is enabled\n")
    assert held == 1, "the other one"
    assert json.loads(command("beat", "--json").stdout)["flows_triggered"] == 1


def test_pausing_ends_the_run_that_waits(command: Command, dbsession: Session) -> None:
    command("flows")
    dbsession.add(data_flow_run(data_flow=row_of(dbsession, "good")))
    dbsession.commit()

    command("pause", "good", "--reason", "deploy")

    dbsession.rollback()
    run = dbsession.scalars(select(DataFlowRun)).one()
    assert (run.status, run.error_type) == ("failed", "Cancelled")
    assert run.error_message == "its flow was paused from the command line: deploy"


def test_reset_restores_the_declared_schedule(command: Command, dbsession: Session) -> None:
    command("beat", flows="good")
    row = row_of(dbsession, "good")
    row.run_interval = 3_600
    row.next_run_at += timedelta(hours=1)
    dbsession.commit()

    result = command("reset", "good")

    row = row_of(dbsession, "good")
    assert (result.exit_code, result.output) == (0, "good runs every 5m again\n")
    assert row.last_slot_at is not None
    assert (row.run_interval, row.next_run_at) == (300, row.last_slot_at + timedelta(minutes=5))


def test_reset_takes_a_flow_back_from_cron(command: Command, dbsession: Session) -> None:
    command("flows")
    row = row_of(dbsession, "good")
    row.run_interval, row.cron, row.timezone = None, "0 3 * * *", "Asia/Tokyo"
    dbsession.commit()

    assert command("reset", "good").exit_code == 0

    row = row_of(dbsession, "good")
    assert (row.run_interval, row.cron, row.timezone) == (300, None, "UTC")


def test_reset_of_what_no_code_declares_is_one_clear_line(command: Command) -> None:
    command("add", "x", "--handler", "good", "--every", "10m")

    result = command("reset", "x")

    assert result.exit_code == 1
    assert result.output == "Error: name: no code declares a schedule for 'x'\n"


# ---------------------------------------------------------------------------------------------
# why


def test_why_shows_people_the_slots_in_both_clocks(command: Command, dbsession: Session) -> None:
    command("beat", flows="good")
    row = row_of(dbsession, "good")
    row.timezone, row.next_run_at = "Asia/Tokyo", NOON.replace(year=2226)
    dbsession.commit()

    result = command("why", "good")

    assert result.exit_code == 0
    assert result.output.startswith("Not due until 2226-03-01 21:00:00 JST.\n")
    assert "Asia/Tokyo" in result.output
    for slot in ("2226-03-01 21:20:00", "2226-03-01 12:20:00"):
        assert slot in result.output


def test_why_prints_programs_the_slots_in_utc(command: Command, dbsession: Session) -> None:
    command("beat", flows="good")
    row = row_of(dbsession, "good")
    row.next_run_at = NOON.replace(year=2226)
    dbsession.commit()

    reported = json.loads(command("why", "good", "--json").stdout)

    assert reported["name"] == "good"
    assert reported["why"] == "Not due until 2226-03-01 12:00:00 UTC."
    assert reported["next_slots"][0] == "2226-03-01T12:00:00+00:00"
    assert len(reported["next_slots"]) == 5


def test_why_of_a_disabled_flow_has_no_slots(command: Command) -> None:
    command("pause", "good", "--reason", "deploy")

    assert command("why", "good").output == (
        "It is disabled: paused from the command line: deploy.\nno slots to come\n"
    )


# ---------------------------------------------------------------------------------------------
# change


def test_change_gives_another_schedule_and_moves_the_next_slot(
    command: Command, dbsession: Session
) -> None:
    command("beat", flows="good")
    last_slot = row_of(dbsession, "good").last_slot_at

    result = command("change", "good", "--every", "10m")

    assert result.exit_code == 0, result.output
    assert result.output.startswith("good runs every 10m, ")
    row = row_of(dbsession, "good")
    assert last_slot is not None
    assert (row.run_interval, row.next_run_at) == (600, last_slot + timedelta(minutes=10))


def test_change_to_cron_takes_a_zone(command: Command, dbsession: Session) -> None:
    zone = "Europe/Berlin"

    result = command("change", "good", "--cron", "0 3 * * *", "--timezone", zone)

    assert "cron 0 3 * * * Europe/Berlin" in result.output
    row = row_of(dbsession, "good")
    assert (row.run_interval, row.cron, row.timezone) == (None, "0 3 * * *", zone)


def test_change_sets_keys_of_the_configuration_and_keeps_the_others(
    command: Command, dbsession: Session
) -> None:
    command("change", "good", "--set", "a=1", "--set", "b=text")

    result = command("change", "good", "--set", 'a={"deep": [true, null]}', "--set", "c==")

    assert result.exit_code == 0, result.output
    expected = {"a": {"deep": [True, None]}, "b": "text", "c": "="}
    assert row_of(dbsession, "good").configuration == expected


def test_change_prints_the_members_of_the_http_resource(command: Command) -> None:
    result = command("change", "good", "--every", "90s", "--json", flows="good")

    members = json.loads(result.stdout)
    assert (members["name"], members["every"], members["cron"]) == ("good", "90s", None)
    [listed] = json.loads(command("flows", "--json", flows="good").stdout)
    assert members["configuration"] == listed["configuration"] == {}
    assert {*members} == {*listed}


@pytest.mark.parametrize(
    ("options", "reason", "status"),
    [
        ([], "give --every, --cron, --timezone or --set", 2),
        (["--set", "key"], "'key' is not KEY=VALUE", 2),
        (["--every", "5 minutes"], "every: ", 1),
        (["--cron", "0 25 * * *"], "cron: ", 1),
        (["--timezone", "Mars/Olympus"], "timezone: ", 1),
        (["--every", "5m", "--cron", "0 3 * * *"], "give either every or cron", 1),
        (["--set", "a=NaN"], "configuration: ", 1),
    ],
)
def test_a_wrong_change_names_the_option_and_changes_nothing(
    command: Command, dbsession: Session, options: list[str], reason: str, status: int
) -> None:
    command("beat", flows="good")

    result = command("change", "good", *options, flows="good")

    assert result.exit_code == status, result.output
    assert reason in result.output.splitlines()[-1]
    row = row_of(dbsession, "good")
    assert (row.run_interval, row.cron, row.configuration) == (300, None, {})
