"""`heartbeat runs`: the history of runs, and one run in detail."""

import json

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from data_flows.heartbeat.models import DataFlow, DataFlowRun

from ..factories import NOON, data_flow, data_flow_run
from .conftest import Command


@pytest.fixture
def history(command: Command) -> None:
    """Run each flow, and the good one twice."""
    command("beat")
    command("run", "good")


@pytest.mark.usefixtures("history")
def test_runs_shows_the_newest_first(command: Command) -> None:
    runs = json.loads(command("runs", "--json").stdout)

    assert [run["id"] for run in runs] == sorted((run["id"] for run in runs), reverse=True)
    assert (runs[0]["flow"], runs[0]["trigger"]) == ("good", "manual")
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
        (["--before", "1"], []),
    ],
)
def test_runs_can_be_narrowed(command: Command, arguments: list[str], names: list[str]) -> None:
    runs = json.loads(command("runs", "--json", *arguments).stdout)

    assert [run["flow"] for run in runs] == names


@pytest.mark.usefixtures("history")
def test_runs_shows_results_and_errors_to_people(command: Command) -> None:
    result = command("runs")

    assert "LookupError: no such bird" in result.output
    assert "{'rows': 3}" in result.output


def test_runs_states_that_there_are_none(command: Command) -> None:
    assert command("runs").output == "no runs\n"
    assert json.loads(command("runs", "--json").stdout) == []


@pytest.mark.parametrize(
    "arguments", [["--status", "lost"], ["--limit", "many"], ["--limit", "0"], ["--before", "0"]]
)
def test_a_wrong_option_of_runs_is_refused_by_name(command: Command, arguments: list[str]) -> None:
    result = command("runs", *arguments)

    assert result.exit_code == 2
    assert f"Invalid value for '{arguments[0]}'" in result.output


def test_runs_of_a_flow_that_does_not_exist_is_an_error(command: Command) -> None:
    result = command("runs", "--flow", "nope")

    assert result.exit_code == 1
    assert "no flow is called 'nope'" in result.output


@pytest.mark.usefixtures("somebody_writes")
def test_runs_does_not_wait_for_a_writer(command: Command) -> None:
    result = command("runs", flows="good", **{"heartbeat.lease": "3s"})

    assert result.exit_code == 0, result.output


@pytest.mark.usefixtures("history")
def test_one_run_is_shown_with_its_backtrace_and_log_to_read(
    command: Command, dbsession: Session
) -> None:
    rows = dbsession.execute(select(DataFlow.name, DataFlowRun.id).join(DataFlowRun.data_flow))
    ids = {row.name: row.id for row in rows}

    failed, logged = command("runs", str(ids["bad"])), command("runs", str(ids["good"]))

    assert (failed.exit_code, logged.exit_code) == (0, 0)
    lines = failed.output.splitlines()
    assert f"id                {ids['bad']}" in lines
    assert "flow              bad" in lines
    assert "error_message     no such bird" in lines
    assert "    raise LookupError(message)" in lines
    assert lines[-1] == "LookupError: no such bird"
    assert logged.output.splitlines()[-2:-1] == ["log"]
    assert "counting" in logged.output.splitlines()[-1]


@pytest.mark.usefixtures("history")
def test_one_run_has_the_members_that_the_list_has(command: Command) -> None:
    newest, *_others = json.loads(command("runs", "--json").stdout)

    one = json.loads(command("runs", str(newest["id"]), "--json").stdout)

    assert one == newest


@pytest.mark.parametrize(("run_id", "status"), [("9", 1), ("999999999999", 1), ("x", 2), ("0", 2)])
def test_a_run_that_does_not_exist_is_an_error(command: Command, run_id: str, status: int) -> None:
    result = command("runs", run_id)

    assert result.exit_code == status
    assert run_id in result.output.splitlines()[-1]
    assert "Traceback" not in result.output


def test_what_steers_a_terminal_is_escaped_in_tables(command: Command, dbsession: Session) -> None:
    bad = "bell\a title\x1b]0;x\x9c turned\u202e"
    flow = data_flow(name=bad, description=bad, handler=bad)
    dbsession.add(
        data_flow_run(
            data_flow=flow,
            status="failed",
            error_type=bad,
            error_message=bad,
            started_at=NOON,
            ended_at=NOON,
        )
    )
    dbsession.commit()

    for words in (("runs",), ("flows",), ("why", bad), ("run", bad)):
        output = command(*words).output
        assert not set(output) & set("\a\x1b\x9c\u202e"), words
        assert "\\x1b" in output, words
