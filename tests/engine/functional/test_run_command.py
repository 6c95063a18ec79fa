"""`heartbeat run`: one run by hand."""

import json
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from data_flows.heartbeat.models import DataFlow, DataFlowRun

from ..factories import NOON, data_flow, data_flow_run
from .conftest import Command


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


def test_the_seconds_of_a_run_are_rounded_for_people(command: Command) -> None:
    printed = command("run", "good").output.splitlines()[-1].split()

    [seconds] = [word for word in printed if word.count(".") == 1]
    assert len(seconds.partition(".")[2]) == 3
