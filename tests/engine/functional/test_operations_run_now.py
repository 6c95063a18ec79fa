"""A flow that an operator runs now, over HTTP: at once, or with the next beat."""

from datetime import timedelta

import pytest
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run

from ..conftest import MakeApp, heartbeat_of
from ..factories import NOON, data_flow, data_flow_run
from .conftest import Gate, settle
from .operated import (
    AS_OPERATOR,
    SECRET,
    Call,
    Post,
    add_flow,
    count,
    path_of,
    row_of,
    runs_of,
)


@pytest.fixture
def app(make_app: MakeApp) -> TestApp:
    """Make an application with one flow, `count`, every five minutes."""
    return make_app((count, {"configuration": {"region": "eu"}}), **SECRET)


def test_run_now_starts_at_once_and_its_location_leads_to_the_run(
    app: TestApp, call: Call, dbsession: Session
) -> None:
    reply = call("POST", "/flows/count/runs", status=202)
    settle()

    run = app.get(path_of(reply), headers=AS_OPERATOR).json
    assert reply.json["id"] == run["id"]
    assert (run["flow"], run["status"], run["trigger"]) == ("count", "success", "manual")
    assert (run["scheduled_for"], run["attempt"], run["missed_slots"]) == (None, 1, 0)
    assert run["result"] == {"counted": {"region": "eu"}}
    assert (run["started_at"], run["window_end"]) == ("2026-03-01T12:00:00+00:00",) * 2
    assert {"error_type", "error_message", "error_backtrace", "log", "duration"} <= set(run)
    row = row_of(dbsession, "count")
    assert (row.next_run_at, row.last_slot_at) == (NOON, None)


def test_no_run_is_given_the_place_of_one_that_was_deleted(call: Call) -> None:
    add_flow(call, "gone")
    old = path_of(call("POST", "/flows/gone/runs", status=202))
    settle()
    call("DELETE", "/flows/gone", status=204)

    new = path_of(call("POST", "/flows/count/runs", status=202))
    settle()

    assert new != old
    call("GET", old.removeprefix("/heartbeat"), status=404)


def test_a_run_waits_for_no_schedule_that_can_be_read(
    app: TestApp, post: Post, dbsession: Session
) -> None:
    flow = data_flow(name="broken", handler="count", run_interval=None, cron="61 * * * *")
    dbsession.add(data_flow_run(data_flow=flow, trigger="manual"))
    dbsession.commit()

    assert post(app).json["flows_succeeded"] == 2

    [run] = runs_of(dbsession, "broken")
    assert (run.status, run.window_start, run.window_end) == ("success", NOON, NOON)


def test_run_now_is_refused_while_an_attempt_waits_for_its_flow_to_be_enabled(
    app: TestApp, call: Call, dbsession: Session
) -> None:
    # Disabling ends what waits; only a row that was changed by hand has both.
    flow = data_flow(name="off", handler="count", enabled=False)
    dbsession.add(data_flow_run(data_flow=flow, trigger="retry", scheduled_for=NOON, attempt=2))
    dbsession.commit()

    call("POST", "/flows/off/runs", status=409)
    with heartbeat_of(app).executor.reserve():  # also while no worker is free
        call("POST", "/flows/off/runs", status=409)

    assert [run.status for run in runs_of(dbsession, "off")] == ["pending"]


def test_a_failed_run_is_shown_with_its_backtrace(make_app: MakeApp) -> None:
    def fail(_run: Run) -> None:
        message = "no such bird"
        raise LookupError(message)

    app = make_app(fail, **SECRET)
    reply = app.post("/heartbeat/flows/fail/runs", headers=AS_OPERATOR, status=202)
    settle()

    run = app.get(path_of(reply), headers=AS_OPERATOR).json
    assert (run["error_type"], run["error_message"]) == ("LookupError", "no such bird")
    assert "raise LookupError(message)" in run["error_backtrace"]


def test_run_now_is_refused_while_a_run_is_active(
    make_app: MakeApp, gate: Gate, dbsession: Session
) -> None:
    app = make_app((lambda _run: gate.hold(), {"name": "hold"}), **SECRET)
    app.post("/heartbeat/flows/hold/runs", headers=AS_OPERATOR, status=202)
    gate.wait_for_arrival()

    reply = app.post("/heartbeat/flows/hold/runs", headers=AS_OPERATOR, status=409)

    assert "has a run that has not ended" in reply.json["detail"]
    gate.open()
    settle()
    assert len(runs_of(dbsession, "hold")) == 1


@pytest.mark.local_executor("a web process has no workers with Celery")
def test_run_now_without_a_free_worker_waits_for_the_next_beat(
    make_app: MakeApp, post: Post, gate: Gate, dbsession: Session
) -> None:
    hold = (lambda _run: gate.hold(), {"name": "hold", "start": "next"})
    app = make_app(hold, (count, {"start": "next"}), **SECRET, **{"heartbeat.workers": "1"})
    app.post("/heartbeat/flows/hold/runs", headers=AS_OPERATOR, status=202)
    gate.wait_for_arrival()

    asked = app.post("/heartbeat/flows/count/runs", headers=AS_OPERATOR, status=202).json
    app.post("/heartbeat/flows/count/runs", headers=AS_OPERATOR, status=409)
    gate.open()
    settle()
    before = [run.status for run in runs_of(dbsession, "count")]
    reply = post(app).json

    assert (asked["status"], before, reply["flows_triggered"]) == ("pending", ["pending"], 1)
    [run] = runs_of(dbsession, "count")
    assert (run.id, run.status, run.trigger) == (asked["id"], "success", "manual")


def test_run_now_gives_its_worker_back(make_app: MakeApp, dbsession: Session) -> None:
    app = make_app(count, **SECRET, **{"heartbeat.workers": "1"})

    for _ in range(3):
        app.post("/heartbeat/flows/count/runs", headers=AS_OPERATOR, status=202)
        settle()
    app.post("/heartbeat/flows/nope/runs", headers=AS_OPERATOR, status=404)
    app.post("/heartbeat/flows/count/runs", headers=AS_OPERATOR, status=202)
    settle()

    assert [run.status for run in runs_of(dbsession, "count")] == ["success"] * 4


def test_run_now_starts_the_attempt_that_waits(
    app: TestApp, call: Call, post: Post, dbsession: Session
) -> None:
    post(app)
    flow = row_of(dbsession, "count")
    slot = NOON - timedelta(minutes=5)
    retry = data_flow_run(
        data_flow=flow,
        trigger="retry",
        attempt=2,
        scheduled_for=slot,
        not_before=NOON + timedelta(hours=1),
        window_start=slot - timedelta(minutes=5),
        window_end=slot,
    )
    dbsession.add(retry)
    dbsession.commit()

    reply = call("POST", "/flows/count/runs", status=202).json
    settle()

    assert (reply["id"], reply["attempt"], reply["trigger"]) == (retry.id, 2, "retry")
    run = runs_of(dbsession, "count")[-1]
    assert (run.status, run.scheduled_for, run.window_end) == ("success", slot, slot)


def test_a_disabled_flow_can_be_run_by_hand(call: Call, dbsession: Session) -> None:
    call("PATCH", "/flows/count", {"enabled": False}, status=200)

    call("POST", "/flows/count/runs", status=202)
    settle()

    assert [run.status for run in runs_of(dbsession, "count")] == ["success"]


def test_run_now_of_a_flow_without_its_handler_is_a_conflict(
    call: Call, dbsession: Session
) -> None:
    dbsession.add(data_flow(name="stray"))
    dbsession.commit()

    reply = call("POST", "/flows/stray/runs", status=409)

    assert "'stray', which is not registered" in reply.json["detail"]


def test_a_process_that_stops_leaves_what_is_asked_for_to_another(
    app: TestApp, call: Call, dbsession: Session
) -> None:
    heartbeat_of(app).executor.stop()

    assert call("POST", "/flows/count/runs", status=202).json["status"] == "pending"
    assert [run.status for run in runs_of(dbsession, "count")] == ["pending"]
