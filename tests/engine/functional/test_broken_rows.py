"""A row of `data_flows` that cannot be read disables its flow, and stops no other one."""

import logging
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from data_flows.heartbeat.models import DataFlow

from ..conftest import DATABASE, FakeClock, MakeApp
from ..factories import NOON, data_flow, data_flow_run
from .broken import MET_BY_BEATS, MET_BY_LISTS, NESTED, NO_TIME, Rig, broken, make_rig, pairs
from .conftest import settle
from .operated import SECRET, add_flow, row_of, runs_of

REPAIRS: dict[str, dict[str, Any]] = {
    "configuration": {"configuration": {"region": "us"}},
    "timezone": {"timezone": "Europe/Berlin"},
}


def is_of_rule(column: str, value: str) -> bool:
    """Return whether the rule reports this invalid value, when its next slot has come."""
    return column == "run_interval" or value == "'Mars/Olympus'"


@pytest.fixture
def rig(make_app: MakeApp, clock: FakeClock, dbsession: Session) -> Rig:
    """Make an application with a flow to break."""
    return make_rig(make_app, clock, dbsession)


@pytest.mark.parametrize(("column", "value"), pairs(MET_BY_BEATS, {"configuration": [NESTED]}))
def test_a_beat_disables_the_flow_and_runs_the_others(
    rig: Rig, caplog: pytest.LogCaptureFixture, column: str, value: str
) -> None:
    rig.write(column, value)
    caplog.set_level(logging.WARNING)

    rig.beat()
    assert rig.beat(300)["flows_succeeded"] == 1

    enabled, reason = rig.stored()
    assert not enabled
    assert column.removeprefix("run_") in reason.replace("time zone", "timezone")
    assert len(reason) < 600
    listed = rig.call("GET", "/flows", status=200).json["flows"]
    shown = {flow["handler"]: flow for flow in listed}
    assert {name: flow["enabled"] for name, flow in shown.items()} == {
        "broken": False,
        "count": True,
    }
    assert reason in shown["broken"]["why"]
    assert shown["broken"]["next_slots"] == []
    assert rig.call("GET", "/flows/count", status=200).json["enabled"]
    # It is left alone by the beats that follow.
    assert rig.beat(300)["flows_succeeded"] == 1
    assert caplog.text.count("is disabled: ") == 1


@pytest.mark.parametrize(("column", "value"), pairs(MET_BY_BEATS, MET_BY_LISTS))
def test_a_list_shows_the_flow_as_disabled_and_disables_it(
    rig: Rig, column: str, value: str
) -> None:
    rig.write(column, value)

    listed = rig.call("GET", "/flows", status=200).json["flows"]

    [shown] = (flow for flow in listed if flow["handler"] == "broken")
    assert len(listed) == 2
    if not is_of_rule(column, value):
        assert shown["next_slots"] == []
        assert (shown["enabled"], shown["next_run_at"]) == (False, None)
        assert f"column {column} is not valid (" in shown["disabled_reason"]
        assert rig.stored() == (False, shown["disabled_reason"])
    if column != "name":
        assert rig.call("GET", "/flows/broken", status=200).json == shown
    assert rig.beat(300)["flows_succeeded"] == 1


# Without a name it has no address.
@pytest.mark.parametrize(("column", "value"), pairs(MET_BY_BEATS, MET_BY_LISTS, without=["name"]))
def test_an_operator_sees_the_column_and_can_remove_the_flow(
    rig: Rig, column: str, value: str
) -> None:
    rig.write(column, value)

    if is_of_rule(column, value):  # a run by hand needs no slots
        rig.call("POST", "/flows/broken/runs", status=202)
        settle()
    else:
        refused = rig.call("POST", "/flows/broken/runs", status=422).json
        assert [*refused["errors"]] == [column]
    if column not in {"enabled", "updated_at"}:  # which this sets
        refused = rig.call("PATCH", "/flows/broken", {"enabled": True}, status=422).json
        assert [*refused["errors"]] == [{"run_interval": "every"}.get(column, column)]
    rig.call("PATCH", "/flows/broken", {"enabled": False}, status=200)
    rig.call("PATCH", "/flows/broken", {"name": "other"}, status=200)
    rig.call("DELETE", "/flows/other", status=204)

    listed = rig.call("GET", "/flows", status=200).json["flows"]
    assert [flow["name"] for flow in listed] == ["count"]


# Of these an operator can change neither.
@pytest.mark.parametrize(("column", "value"), pairs(MET_BY_BEATS, without=["name", "created_at"]))
def test_a_change_of_what_is_broken_repairs_it(rig: Rig, column: str, value: str) -> None:
    rig.write(column, value)
    rig.beat(300)
    change = {**REPAIRS.get(column, {"every": "5m"}), "enabled": True}

    shown = rig.call("PATCH", "/flows/broken", change, status=200).json

    assert (shown["enabled"], shown["disabled_reason"]) == (True, None)
    assert len(shown["next_slots"]) == 5
    assert rig.beat(300)["flows_succeeded"] == 2


def test_a_flow_that_is_repaired_in_steps_is_enabled_by_the_last_one(rig: Rig) -> None:
    rig.write("last_slot_at", NO_TIME)
    rig.write("configuration", "'[1]'")

    rig.call("PATCH", "/flows/broken", {"every": "5m"}, status=200)
    refused = rig.call("PATCH", "/flows/broken", {"enabled": True}, status=422).json
    rig.call("PATCH", "/flows/broken", {"configuration": {}}, status=200)

    assert refused["errors"]["configuration"]
    assert rig.call("PATCH", "/flows/broken", {"enabled": True}, status=200).json["enabled"]


def test_many_broken_rows_leave_the_flow_behind_them_its_turn(
    make_app: MakeApp, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app((broken, {"name": "last"}), **{"heartbeat.workers": "1", **SECRET})
    rig = Rig(app, clock, dbsession)
    dbsession.add_all([data_flow(name=f"flow {n}", handler="last") for n in range(8)])
    dbsession.commit()
    if DATABASE == "mysql":
        dbsession.execute(text("SET SESSION sql_mode = ''"))
    write = f"UPDATE data_flows SET window_starts_at = {NO_TIME} WHERE name <> 'last'"  # noqa: S608
    dbsession.execute(text(write))
    dbsession.commit()

    assert rig.beat(300)["flows_succeeded"] == 1
    assert row_of(dbsession, "last").last_run_at == clock.now()


def test_a_configuration_that_no_run_can_read_is_not_retried(
    make_app: MakeApp, clock: FakeClock, dbsession: Session
) -> None:
    rig = make_rig(make_app, clock, dbsession, retries=3)
    rig.write("configuration", "'[1]'")

    rig.beat(300)

    assert [run.status for run in runs_of(dbsession, "broken")] == ["success", "failed"]
    assert "must be a JSON object" in rig.stored()[1]


def test_a_pending_run_of_the_flow_is_ended_with_it(rig: Rig) -> None:
    rig.dbsession.add(data_flow_run(data_flow=row_of(rig.dbsession, "broken"), created_at=NOON))
    rig.dbsession.commit()
    rig.write("last_slot_at", NO_TIME)

    rig.beat()

    run = runs_of_broken(rig)[-1]
    assert (run["status"], run["error_type"]) == ("failed", "Cancelled")
    assert "column last_slot_at is not valid" in run["error_message"]


def runs_of_broken(rig: Rig) -> list[dict[str, Any]]:
    """Return the runs of the broken flow, oldest first, without reading its row."""
    rig.dbsession.rollback()
    columns = (
        "SELECT status, error_type, error_message FROM data_flow_runs WHERE data_flow_id = "
        "(SELECT id FROM data_flows WHERE name = 'broken') ORDER BY id"
    )
    return [dict(row) for row in rig.dbsession.execute(text(columns)).mappings()]


def test_unreadable_beats_stop_no_flow(rig: Rig) -> None:
    if DATABASE == "mysql":
        rig.dbsession.execute(text("SET SESSION sql_mode = ''"))
    rig.dbsession.execute(text(f"UPDATE data_flow_beats SET received_at = {NO_TIME}"))  # noqa: S608
    rig.dbsession.commit()

    assert len(rig.call("GET", "/flows", status=200).json["flows"]) == 2
    rig.beat(290)  # which looks at the rhythm of the last beats, and waits for the slot
    assert rig.beat(300)["flows_succeeded"] == 2


def test_a_list_waits_for_no_lock_to_disable_the_flow(rig: Rig) -> None:
    rig.write("last_run_at", NO_TIME)
    # Holds the row, and on SQLite the write lock.
    rig.dbsession.execute(update(DataFlow).values(description="held"))

    assert not rig.call("GET", "/flows/broken", status=200).json["enabled"]

    assert rig.stored()[0]
    rig.call("GET", "/flows/broken", status=200)
    assert not rig.stored()[0]


def test_flows_are_added_and_changed_beside_a_broken_one(rig: Rig) -> None:
    rig.write("last_run_at", NO_TIME)

    add_flow(rig.call, "new")
    rig.call("PATCH", "/flows/new", {"every": "7m"}, status=200)

    listed = rig.call("GET", "/flows", status=200).json["flows"]
    assert [flow["name"] for flow in listed] == ["broken", "count", "new"]


def test_the_other_flows_adopt_a_changed_declaration(
    rig: Rig, make_app: MakeApp, clock: FakeClock, dbsession: Session
) -> None:
    rig.write("last_slot_at", NO_TIME)

    again = (broken, {"every": "7m"}), (broken, {"name": "count", "every": "7m"})
    Rig(make_app(*again, **SECRET), clock, dbsession)

    assert row_of(dbsession, "count").run_interval == 420


if DATABASE == "postgresql":

    def test_times_are_read_in_whatever_form_the_server_shows_them(
        make_app: MakeApp, clock: FakeClock, dbsession: Session
    ) -> None:
        name = dbsession.scalar(text("SELECT current_database()"))
        dbsession.execute(text(f"ALTER DATABASE {name} SET datestyle = 'German'"))
        dbsession.execute(text(f"ALTER DATABASE {name} SET timezone = 'Asia/Kolkata'"))
        dbsession.commit()
        try:
            rig = make_rig(make_app, clock, dbsession)
            assert rig.beat()["flows_due"] == 0
            assert rig.beat(300)["flows_succeeded"] == 2
        finally:
            dbsession.rollback()
            dbsession.execute(text(f"ALTER DATABASE {name} RESET ALL"))
            dbsession.commit()
