"""`heartbeat run` and `heartbeat runs`: one run by hand, and the history."""

import json
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from data_flows.heartbeat.models import DataFlow, DataFlowRun

from ..factories import NOON, data_flow, data_flow_run
from .conftest import Command

# ---------------------------------------------------------------------------------------------
# run


def test_run_runs_a_flow_now_and_leaves_its_schedule(command: Command, dbsession: Session) -> None:
    command("beat", flows="good")
    before = dbsession.scalars(select(DataFlow.next_run_at)).one()
    dbsession.rollback()

    result = command("run", "good", "--json")

    run = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (run["flow"], run["status"], run["result"]) == ("good", "success", {"rows": 3})
    row = dbsession.get_one(DataFlowRun, run["id"])
    assert (row.trigger, row.scheduled_for) == ("manual", None)
    assert row.data_flow.next_run_at == before


def test_run_of_a_flow_that_fails_exits_with_1_and_reports_the_error(command: Command) -> None:
    result = command("run", "bad", "--json")

    run = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (run["status"], run["error"]) == ("failed", "LookupError: no such bird")


@pytest.mark.parametrize("name", ["nope", "", "Good", "x" * 5_000, "Käuzchen 🦉", "' OR 1"])
def test_an_unknown_flow_is_reported_with_where_to_look(
    command: Command, dbsession: Session, name: str
) -> None:
    command("beat")

    result = command("run", name)

    assert result.exit_code == 1
    assert f"no flow is called {name!r}: `heartbeat flows` lists them" in result.output
    assert len(dbsession.scalars(select(DataFlow.id)).all()) == 2


def test_run_of_a_flow_without_a_handler_is_reported_with_the_solution(
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


@pytest.mark.usefixtures("somebody_writes")
def test_runs_does_not_wait_for_a_writer(command: Command) -> None:
    result = command("runs", flows="good", **{"heartbeat.lease": "3s"})

    assert result.exit_code == 0, result.output


# ---------------------------------------------------------------------------------------------
# runs ID


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


def test_the_seconds_of_a_run_are_rounded_for_people(command: Command) -> None:
    printed = command("run", "good").output.splitlines()[-1].split()

    [seconds] = [word for word in printed if word.count(".") == 1]
    assert len(seconds.partition(".")[2]) == 3


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
