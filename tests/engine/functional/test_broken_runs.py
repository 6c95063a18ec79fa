"""A row of `data_flow_runs` that cannot be read ends, disables its flow, and stops no other run."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from ..conftest import DATABASE, FakeClock, MakeApp
from ..factories import NOON, data_flow_run
from .broken import NESTED, NO_TIME, Rig, make_rig
from .conftest import Command
from .operated import row_of

TIMES = ["scheduled_for", "not_before", "window_start", "window_end", "started_at", "created_at"]
TIMES += ["lease_expires_at", "updated_at"]
BROKEN = [(column, NO_TIME) for column in TIMES]
if DATABASE == "sqlite":
    BROKEN += [("attempt", "'x'"), ("missed_slots", "0.5"), ("worker", "x'ff'")]
    BROKEN += [("result", "'{oops'"), ("result", NESTED), ("log", "CAST(x'ff' AS TEXT)")]
if DATABASE == "postgresql":
    BROKEN += [("result", NESTED), ("duration", "'NaN'")]
# The database refuses a run that has ended before it started; MySQL's zeros are before all times.
PAST = [each for each in BROKEN if each[0] != "started_at" or DATABASE == "mysql"]
PAST += [("ended_at", NO_TIME)]
HOUR = timedelta(hours=1)
PENDING: dict[str, Any] = {"status": "pending", "trigger": "manual"}
RETRY: dict[str, Any] = {"status": "pending", "trigger": "retry", "attempt": 2}
RETRY["scheduled_for"] = NOON - HOUR
LOST: dict[str, Any] = {
    "status": "in_progress",
    "trigger": "schedule",
    "scheduled_for": NOON - HOUR,
    "started_at": NOON - HOUR,
    "lease_expires_at": NOON - HOUR / 2,
    "claim_id": "of a process that died",
}


@pytest.fixture
def rig(make_app: MakeApp, clock: FakeClock, dbsession: Session) -> Rig:
    """Make an application with a flow that has a broken run."""
    return make_rig(make_app, clock, dbsession, on_lost="retry", retries=3)


def add_run(rig: Rig, name: str = "broken", **columns: Any) -> int:
    """Add a run of a flow and return its id."""
    run = data_flow_run(data_flow=row_of(rig.dbsession, name), **columns)
    rig.dbsession.add(run)
    rig.dbsession.commit()
    return run.id


def status_of(rig: Rig, run: int) -> str:
    """Return the status of a run, without reading the rest of it."""
    rig.dbsession.rollback()
    statement = text("SELECT status FROM data_flow_runs WHERE id = :run")
    return str(rig.dbsession.scalar(statement, {"run": run}))


@pytest.mark.parametrize(("column", "value"), BROKEN)
@pytest.mark.parametrize("columns", [PENDING, RETRY, LOST], ids=["pending", "retry", "lost"])
def test_a_beat_ends_the_run_and_goes_on(
    rig: Rig, columns: dict[str, Any], column: str, value: str
) -> None:
    run, other = add_run(rig, **columns), add_run(rig, "count", **PENDING)
    rig.write(column, value, run=run)

    assert rig.beat()["flows_succeeded"] == 1
    assert rig.beat(300)["flows_succeeded"] == 1

    enabled, reason = rig.stored()
    assert not enabled
    assert reason.startswith(f"column {column} of run {run} is not valid (")
    assert status_of(rig, run) == "failed"
    shown = rig.call("GET", f"/runs/{run}", status=200).json
    assert (shown["status"], shown["error_type"]) == ("failed", "Cancelled")
    assert reason in shown["error_message"]
    assert rig.call("GET", f"/runs/{other}", status=200).json["status"] == "success"
    # Nothing of it is left in the way.
    rig.call("PATCH", "/flows/broken", {"enabled": True}, status=200)
    assert rig.beat(300)["flows_succeeded"] == 2


@pytest.mark.parametrize(("column", "value"), BROKEN)
def test_a_list_disables_the_flow_of_an_active_run(rig: Rig, column: str, value: str) -> None:
    living = {**LOST, "lease_expires_at": NOON + HOUR}
    rig.write(column, value, run=add_run(rig, **living))

    listed = rig.call("GET", "/flows", status=200).json["flows"]

    assert [flow["enabled"] for flow in listed] == [False, True]
    assert rig.stored() == (False, listed[0]["disabled_reason"])
    assert column in listed[0]["why"]
    rig.call("POST", "/flows/broken/runs", status=409)
    refused = rig.call("PATCH", "/flows/broken", {"enabled": True}, status=422).json
    assert [*refused["errors"]] == [column]
    rig.call("DELETE", "/flows/broken", status=204)


@pytest.mark.parametrize(("column", "value"), PAST)
def test_a_run_of_the_past_is_shown_without_what_cannot_be_read(
    rig: Rig, command: Command, column: str, value: str
) -> None:
    past: dict[str, Any] = {"status": "failed", "ended_at": NOON - 60 * 24 * HOUR}
    run = add_run(rig, **past)
    rig.write(column, value, run=run)

    shown = rig.call("GET", f"/runs/{run}", status=200).json

    assert (shown["id"], shown[column]) == (run, None)
    assert rig.beat(300)["flows_succeeded"] == 2  # it keeps no flow from anything
    assert rig.stored()[0]
    result = command("runs")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("column", ["started_at", "created_at", "updated_at", "scheduled_for"])
def test_flows_follow_a_clock_that_was_set_back_past_broken_runs(rig: Rig, column: str) -> None:
    rig.write(column, NO_TIME, run=add_run(rig, **RETRY, not_before=NOON + HOUR))

    rig.clock.leap(-3_600)

    assert rig.beat()["flows_succeeded"] == 1


@pytest.mark.parametrize("attempt", [10**9, 2**31 - 1])
def test_an_attempt_far_beyond_all_retries_is_ended_like_any_other(rig: Rig, attempt: int) -> None:
    run = add_run(rig, **LOST)
    rig.write("attempt", str(attempt), run=run)

    assert rig.beat()["runs_reaped"] == 1
    assert status_of(rig, run) == "failed"
    assert rig.stored()[0]


def test_counters_at_their_end_stop_no_record(rig: Rig) -> None:
    run = add_run(rig, **LOST)
    rig.write("failures_in_a_row", str(2**31 - 1))
    rig.write("skipped_slots", str(2**63 - 1))

    assert rig.beat()["runs_reaped"] == 1
    assert status_of(rig, run) == "failed"
    rig.beat(3_600)
    assert rig.beat(3_600)["flows_succeeded"] == 2
