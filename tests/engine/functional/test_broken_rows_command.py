"""The commands beside a row that cannot be read: of its flow, and of the others."""

import json

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from data_flows.heartbeat.models import DataFlow

from ..conftest import DATABASE, FakeClock, MakeApp
from ..factories import NOON, data_flow, data_flow_run
from .broken import NO_TIME, Rig, make_rig
from .conftest import Command

# What a beat meets, what only lists meet, and what a parser fails on.
BROKEN = [("last_slot_at", NO_TIME), ("last_run_at", NO_TIME), ("configuration", "'[1]'")]
if DATABASE == "sqlite":
    BROKEN += [("description", "CAST(x'ff' AS TEXT)"), ("skipped_slots", "'x'")]


@pytest.fixture
def rig(make_app: MakeApp, clock: FakeClock, dbsession: Session) -> Rig:
    """Make a flow to break, and one that the commands' own application knows."""
    dbsession.add(data_flow(name="good", next_run_at=NOON))
    dbsession.commit()
    return make_rig(make_app, clock, dbsession)


@pytest.mark.parametrize(("column", "value"), BROKEN)
def test_each_command_goes_on_or_names_the_column(
    rig: Rig, command: Command, column: str, value: str
) -> None:
    rig.write(column, value)

    listed = command("flows", "--json", flows="good")
    names = [flow["name"] for flow in json.loads(listed.stdout)]
    assert listed.exit_code == 0
    assert {*names} == {"broken", "count", "good"}
    assert not rig.stored()[0]

    result = command("why", "broken", flows="good")
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"It is disabled: column {column} is not valid (")

    for arguments in (["beat"], ["flows"], ["runs"], ["runs", "--json"], ["prune"]):
        result = command(*arguments, flows="good")
        assert result.exit_code == 0, result.output

    refused = command("resume", "broken", flows="good")
    assert refused.exit_code == 1
    [line] = refused.output.splitlines()
    assert line.startswith(f"Error: {column}: is not valid (")

    for arguments in (["pause", "broken"], ["rename", "broken", "other"], ["remove", "other"]):
        result = command(*arguments, flows="good")
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize(("column", "value"), BROKEN)
def test_check_names_the_row_and_writes_nothing(
    rig: Rig, command: Command, column: str, value: str
) -> None:
    rig.write(column, value)

    result = command("check", flows="good")

    assert result.exit_code == 1
    assert f"wrong  flow broken: column {column} is not valid (" in result.output
    assert rig.stored()[0]


def test_backfill_of_the_flow_is_refused_and_that_of_another_works(
    rig: Rig, command: Command
) -> None:
    rig.write("last_slot_at", NO_TIME)
    span = "--from", "2026-03-01T11:00", "--to", "2026-03-01T11:10"

    refused = command("backfill", "broken", *span, flows="good")
    done = command("backfill", "good", *span, flows="good")

    assert refused.exit_code == 1
    [line] = refused.output.splitlines()
    assert line.startswith("Error: last_slot_at: is not valid (")
    assert done.exit_code == 0, done.output
    assert "2 windows run" in done.output


def test_a_run_by_hand_is_refused_with_the_column(rig: Rig, command: Command) -> None:
    rig.write("last_slot_at", NO_TIME)
    rig.dbsession.execute(update(DataFlow).where(DataFlow.name == "broken").values(handler="good"))
    rig.dbsession.commit()

    result = command("run", "broken", flows="good")

    assert result.exit_code == 1
    [line] = result.output.splitlines()
    assert line.startswith("Error: last_slot_at: is not valid (")


def test_the_history_is_printed_beside_a_run_that_cannot_be_read(
    rig: Rig, command: Command
) -> None:
    ended = {"status": "failed", "ended_at": NOON, "duration": 1.5}
    [good] = rig.dbsession.scalars(select(DataFlow).where(DataFlow.name == "good"))
    run = data_flow_run(data_flow=good, **ended)
    rig.dbsession.add(run)
    rig.dbsession.commit()
    rig.write("scheduled_for", NO_TIME, run=run.id)

    printed = json.loads(command("runs", "--json", flows="good").stdout)

    [shown] = (each for each in printed if each["id"] == run.id)
    assert (shown["scheduled_for"], shown["status"]) == (None, "failed")
    assert command("runs", flows="good").exit_code == 0
