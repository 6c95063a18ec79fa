"""What an operator changes of a flow over HTTP, and what then follows for its runs."""

import os
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel, Field
from sqlalchemy import make_url, select, text
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import NEVER_SCHEDULED, DataFlowRun

from ..conftest import FakeClock, MakeApp
from ..factories import NOON, data_flow, data_flow_run
from .conftest import Gate, settle
from .operated import AS_OPERATOR, SECRET, Call, Post, add_flow, count, row_of, runs_of

DATABASE = make_url(os.environ.get("TEST_DATABASE_URL") or "sqlite://").get_backend_name()


@pytest.fixture
def app(make_app: MakeApp) -> TestApp:
    """Make an application with one flow, `count`, every five minutes."""
    return make_app((count, {"configuration": {"region": "eu"}}), **SECRET)


def test_a_configuration_is_replaced(
    app: TestApp, call: Call, post: Post, dbsession: Session
) -> None:
    reply = call("PATCH", "/flows/count", {"configuration": {"limit": 5}}, status=200)
    post(app)

    assert reply.json["configuration"] == {"limit": 5}
    [run] = runs_of(dbsession, "count")
    assert run.result == {"counted": {"limit": 5}}


def test_a_patch_of_nothing_changes_nothing(call: Call) -> None:
    before = call("GET", "/flows/count", status=200).json

    assert call("PATCH", "/flows/count", {}, status=200).json == before


def test_what_was_shown_may_be_sent_back(app: TestApp, call: Call, post: Post) -> None:
    post(app)
    shown = call("GET", "/flows/count", status=200).json
    names = ("enabled", "every", "cron", "timezone", "configuration")

    changed = call("PATCH", "/flows/count", {name: shown[name] for name in names}, status=200)

    assert changed.json == shown


def test_every_and_cron_clear_each_other(call: Call) -> None:
    to_cron = {"cron": "0 3 * * *", "timezone": "Europe/Berlin"}

    by_cron = call("PATCH", "/flows/count", to_cron, status=200).json
    by_every = call("PATCH", "/flows/count", {"every": "1h"}, status=200).json

    assert (by_cron["every"], by_cron["cron"]) == (None, "0 3 * * *")
    assert by_cron["next_run_at"] == "2026-03-02T02:00:00+00:00"
    assert (by_every["every"], by_every["cron"]) == ("1h", None)


@pytest.mark.parametrize("body", [{"every": "1m", "cron": "@daily"}, {"every": None}])
def test_a_flow_has_one_schedule_always(call: Call, body: dict[str, object]) -> None:
    assert "every" in call("PATCH", "/flows/count", body, status=422).json["errors"]
    assert call("GET", "/flows/count", status=200).json["every"] == "5m"


@pytest.mark.parametrize(("every", "hour"), [("2h", 14), ("1m", 13)])
def test_a_new_interval_is_counted_from_the_last_slot_or_begins_now(
    make_app: MakeApp, post: Post, clock: FakeClock, every: str, hour: int
) -> None:
    app = make_app((count, {"every": "90m"}), **SECRET)
    post(app)
    clock.advance(3_600)

    reply = app.patch_json("/heartbeat/flows/count", {"every": every}, headers=AS_OPERATOR)

    assert reply.json["next_run_at"] == f"2026-03-01T{hour}:00:00+00:00"


def test_the_same_interval_again_leaves_the_grid(
    app: TestApp, call: Call, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    post(app)
    clock.advance(400)

    call("PATCH", "/flows/count", {"every": 300}, status=200)

    assert row_of(dbsession, "count").next_run_at == NOON + timedelta(minutes=5)


def test_disabling_records_the_reason_and_nothing_is_due(
    app: TestApp, call: Call, post: Post
) -> None:
    flow = call("PATCH", "/flows/count", {"enabled": False}, status=200).json

    assert flow["disabled_reason"] == "paused by the operator at unknown"
    assert (flow["next_run_at"], flow["next_slots"]) == (None, [])
    assert post(app).json["flows_triggered"] == 0


def test_a_row_without_a_next_time_is_enabled(call: Call, dbsession: Session) -> None:
    given = {
        "run_interval": None,
        "cron": "0 3 * * *",
        "next_run_at": NEVER_SCHEDULED,
        "created_at": NOON,
    }
    dbsession.add(data_flow(name="added", handler="count", enabled=False, **given))
    dbsession.commit()

    flow = call("PATCH", "/flows/added", {"enabled": True}, status=200).json

    assert (flow["enabled"], flow["next_run_at"]) == (True, "2026-03-02T03:00:00+00:00")


def test_another_change_leaves_a_disabled_flow_disabled(call: Call) -> None:
    before = call("PATCH", "/flows/count", {"enabled": False}, status=200).json

    after = call("PATCH", "/flows/count", {"every": "1h", "configuration": {}}, status=200).json

    assert (after["enabled"], after["every"]) == (False, "1h")
    assert after["disabled_reason"] == before["disabled_reason"]


def test_the_address_that_disabled_a_flow_is_recorded(app: TestApp) -> None:
    flow = app.patch_json(
        "/heartbeat/flows/count",
        {"enabled": False},
        headers=AS_OPERATOR,
        extra_environ={"REMOTE_ADDR": "10.0.0.1"},
    ).json

    assert flow["disabled_reason"] == "paused by the operator at 10.0.0.1"
    assert flow["why"] == "It is disabled: paused by the operator at 10.0.0.1."


def test_enabling_after_a_month_causes_one_run_on_the_old_grid(
    app: TestApp, call: Call, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    post(app)
    call("PATCH", "/flows/count", {"enabled": False}, status=200)
    clock.advance(30 * 86_400 + 130)

    flow = call("PATCH", "/flows/count", {"enabled": True}, status=200).json
    beats = [post(app).json["flows_triggered"] for _ in range(2)]

    assert flow["disabled_reason"] is None
    assert beats == [1, 0]
    run = runs_of(dbsession, "count")[-1]
    assert (run.scheduled_for, run.missed_slots) == (NOON + timedelta(days=30), 0)
    assert (run.window_start, run.window_end) == (NOON, NOON + timedelta(days=30))


def test_enabling_soon_after_waits_for_the_next_slot(
    app: TestApp, call: Call, post: Post, clock: FakeClock
) -> None:
    post(app)
    call("PATCH", "/flows/count", {"enabled": False}, status=200)
    clock.advance(60)
    call("PATCH", "/flows/count", {"enabled": True}, status=200)

    assert post(app).json["flows_triggered"] == 0


@pytest.mark.parametrize("trigger", ["manual", "retry"])
def test_disabling_ends_the_run_that_waits(call: Call, dbsession: Session, trigger: str) -> None:
    flow = data_flow(name="waiting", handler="count")
    dbsession.add(data_flow_run(data_flow=flow, trigger=trigger))
    dbsession.commit()

    call("PATCH", "/flows/waiting", {"enabled": False}, status=200)

    [run] = runs_of(dbsession, "waiting")
    assert (run.status, run.error_type) == ("failed", "Cancelled")
    assert run.error_message == "its flow was paused by the operator at unknown"
    assert run.ended_at == NOON


def test_a_run_under_way_is_left_to_end_when_its_flow_is_disabled(
    make_app: MakeApp, post: Post, gate: Gate, dbsession: Session
) -> None:
    app = make_app((lambda _run: gate.hold(), {"name": "hold"}), **SECRET)
    post(app, status=202, Prefer="wait=0")
    gate.wait_for_arrival()

    app.patch_json("/heartbeat/flows/hold", {"enabled": False}, headers=AS_OPERATOR)
    gate.open()
    settle()

    assert [run.status for run in runs_of(dbsession, "hold")] == ["success"]


def test_a_flow_is_renamed_and_keeps_its_runs(
    app: TestApp, call: Call, post: Post, dbsession: Session
) -> None:
    add_flow(call, "old")
    post(app)

    assert call("PATCH", "/flows/old", {"name": "new"}, status=200).json["name"] == "new"

    call("GET", "/flows/old", status=404)
    assert len(runs_of(dbsession, "new")) == 1
    call("PATCH", "/flows/new", {"name": "count", "enabled": False}, status=409)


def test_a_patch_is_refused_by_field_and_then_changes_nothing(call: Call) -> None:
    body = {"enabled": False, "every": "soon", "handler": "other"}

    errors = call("PATCH", "/flows/count", body, status=422).json["errors"]

    assert set(errors) == {"every", "handler"}
    assert call("GET", "/flows/count", status=200).json["enabled"] is True


def test_a_schedule_changed_by_an_operator_outlives_a_restart(make_app: MakeApp) -> None:
    app = make_app(count, **SECRET)
    app.patch_json("/heartbeat/flows/count", {"every": "7m"}, headers=AS_OPERATOR)

    again = make_app((count, {"every": "9m"}), **SECRET)

    assert again.get("/heartbeat/flows/count", headers=AS_OPERATOR).json["every"] == "7m"


def test_a_flow_is_removed_with_its_history(
    app: TestApp, call: Call, post: Post, dbsession: Session
) -> None:
    add_flow(call, "gone")
    post(app)

    reply = call("DELETE", "/flows/gone", status=204)

    assert (reply.body, reply.headers["Cache-Control"]) == (b"", "no-store")
    call("GET", "/flows/gone", status=404)
    assert [run.data_flow.name for run in dbsession.scalars(select(DataFlowRun))] == ["count"]


class Region(BaseModel):
    """The declared model of a configuration."""

    name: str = "eu"
    limit: int = Field(10, gt=0)


@pytest.fixture
def modelled(make_app: MakeApp) -> TestApp:
    """Make an application whose flow declares its configuration as a model."""

    def region(run: Run) -> dict[str, Any]:
        return {"limit": run.configuration.limit}

    return make_app((region, {"configuration": Region}), **SECRET)


@pytest.mark.parametrize(
    ("configuration", "field"),
    [({"limit": "many"}, "limit"), ({"limit": 0}, "limit"), ({"name": None}, "name")],
)
def test_a_configuration_is_checked_against_its_model_by_field(
    modelled: TestApp, dbsession: Session, configuration: dict[str, object], field: str
) -> None:
    body = {"name": "us", "handler": "region", "every": "1h", "configuration": configuration}

    added = modelled.post_json("/heartbeat/flows", body, headers=AS_OPERATOR, status=422)
    changed = modelled.patch_json(
        "/heartbeat/flows/region",
        {"configuration": configuration},
        headers=AS_OPERATOR,
        status=422,
    )

    assert [*added.json["errors"]] == [*changed.json["errors"]] == [f"configuration.{field}"]
    assert row_of(dbsession, "region").configuration == {"name": "eu", "limit": 10}


def test_a_run_is_refused_whose_configuration_does_not_fit_its_model(
    modelled: TestApp, dbsession: Session
) -> None:
    modelled.get("/heartbeat/flows", headers=AS_OPERATOR)
    row_of(dbsession, "region").configuration = {"limit": 0}
    dbsession.commit()

    refused = modelled.post("/heartbeat/flows/region/runs", headers=AS_OPERATOR, status=422)
    modelled.patch_json(
        "/heartbeat/flows/region", {"configuration": {"limit": 5}}, headers=AS_OPERATOR
    )
    modelled.post("/heartbeat/flows/region/runs", headers=AS_OPERATOR, status=202)
    settle()

    assert [*refused.json["errors"]] == ["configuration.limit"]
    assert [run.result for run in runs_of(dbsession, "region")] == [{"limit": 5}]


if DATABASE == "sqlite":

    def test_a_run_is_refused_whose_configuration_cannot_be_read(
        modelled: TestApp, dbsession: Session
    ) -> None:
        modelled.get("/heartbeat/flows", headers=AS_OPERATOR)
        dbsession.execute(text("UPDATE data_flows SET configuration = '{'"))
        dbsession.commit()

        refused = modelled.post("/heartbeat/flows/region/runs", headers=AS_OPERATOR, status=422)

        assert [*refused.json["errors"]] == ["configuration"]
        assert dbsession.scalars(select(DataFlowRun.id)).all() == []


@pytest.mark.parametrize("catch_up", ["once", "skip", "all"])
@pytest.mark.parametrize("schedule", [{"every": "5m"}, {"every": None, "cron": "*/5 * * * *"}])
def test_enabling_after_a_day_causes_one_run_at_most_whatever_the_rule(
    make_app: MakeApp, post: Post, clock: FakeClock, schedule: dict[str, Any], catch_up: str
) -> None:
    app = make_app((count, {**schedule, "catch_up": catch_up}), **SECRET)
    clock.advance(300)
    post(app)
    app.patch_json("/heartbeat/flows/count", {"enabled": False}, headers=AS_OPERATOR)
    clock.advance(86_400)

    app.patch_json("/heartbeat/flows/count", {"enabled": True}, headers=AS_OPERATOR)

    assert [post(app).json["flows_triggered"] for _ in range(3)] == [1, 0, 0]


def test_a_schedule_that_never_meets_its_window_is_refused(make_app: MakeApp) -> None:
    app = make_app((count, {"between": "22:00-06:00"}), **SECRET)

    reply = app.patch_json(
        "/heartbeat/flows/count", {"cron": "0 12 * * *"}, headers=AS_OPERATOR, status=422
    )

    assert "lies between 22:00-06:00" in reply.json["errors"]["cron"][0]
