"""What an operator does over HTTP: looking at flows, changing them, and running one now."""

import json
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import BaseModel, Field
from sqlalchemy import make_url, select, text
from sqlalchemy.orm import Session
from webtest import TestApp

from {{cookiecutter.project_slug}}.heartbeat import (
    Run,
)
from {{cookiecutter.project_slug}}.heartbeat.models import (
    DataFlow,
    DataFlowRun,
)

from ...factories import NOON, data_flow, data_flow_run
from ..conftest import TOKEN, FakeClock, MakeApp, heartbeat_of
from .conftest import Gate, settle

OPERATOR = "an-operator-token-for-tests-alone"
SECRET = {"heartbeat.operator_token": OPERATOR}
AS_OPERATOR = {"Authorization": f"Bearer {OPERATOR}"}
AS_SCHEDULER = {"Authorization": f"Bearer {TOKEN}"}
MEMBERS = {
    *("name", "handler", "description", "enabled", "every", "cron", "timezone", "configuration"),
    *("next_run_at", "last_run_at", "last_run_status", "last_success_at", "disabled_reason"),
    *("why", "next_slots"),
}
ROUTES = [
    ("GET", "/flows"),
    ("POST", "/flows"),
    ("GET", "/flows/count"),
    ("PATCH", "/flows/count"),
    ("DELETE", "/flows/count"),
    ("POST", "/flows/count/runs"),
    ("GET", "/runs/1"),
]

DATABASE = make_url(os.environ.get("TEST_DATABASE_URL") or "sqlite://").get_backend_name()

Call = Callable[..., Any]
Post = Callable[..., Any]


def count(run: Run) -> dict[str, Any]:
    """Count birds."""
    return {"counted": run.configuration}


@pytest.fixture
def app(make_app: MakeApp) -> TestApp:
    """Make an application with one flow, `count`, every five minutes."""
    return make_app((count, {"configuration": {"region": "eu"}}), **SECRET)


@pytest.fixture
def call(app: TestApp) -> Call:
    """Call a resource as the operator; return the response."""

    def call(method: str, path: str, body: object = None, *, status: int, **headers: str) -> Any:
        given: dict[str, Any] = {}
        if body is not None:
            given["body"] = json.dumps(body).encode()
            headers = {"Content-Type": "application/json", **headers}
        return app.request(
            f"/heartbeat{path}",
            method=method,
            headers={**AS_OPERATOR, **headers},
            status=status,
            **given,
        )

    return call


def path_of(reply: Any) -> str:
    """Return the path that a reply's `Location` names."""
    return str(urlsplit(reply.headers["Location"]).path)


def row_of(dbsession: Session, name: str) -> DataFlow:
    """Return a flow's row as it is now."""
    dbsession.rollback()
    return dbsession.scalars(select(DataFlow).where(DataFlow.name == name)).one()


def runs_of(dbsession: Session, name: str) -> list[DataFlowRun]:
    """Return a flow's runs as they are now, oldest first."""
    dbsession.rollback()
    runs = select(DataFlowRun).join(DataFlowRun.data_flow).where(DataFlow.name == name)
    return [*dbsession.scalars(runs.order_by(DataFlowRun.id))]


# ---------------------------------------------------------------------------------------------
# Who may, and in what form


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_operating_needs_the_operators_token(app: TestApp, method: str, path: str) -> None:
    def status(**headers: str) -> int:
        reply = app.request(f"/heartbeat{path}", method=method, headers=headers, expect_errors=True)
        assert reply.content_type == "application/problem+json"
        assert reply.headers["Cache-Control"] == "no-store"
        return int(reply.status_int)

    assert status() == 401
    assert status(**AS_SCHEDULER) == 403


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/flows", "GET, POST"),
        ("POST", "/flows/count", "GET, PATCH, DELETE"),
        ("GET", "/flows/count/runs", "POST"),
        ("DELETE", "/runs/1", "GET"),
    ],
)
def test_another_method_is_told_which_there_are(
    call: Call, method: str, path: str, allowed: str
) -> None:
    assert call(method, path, status=405).headers["Allow"] == allowed


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/flows/nope"),
        ("PATCH", "/flows/nope"),
        ("DELETE", "/flows/nope"),
        ("POST", "/flows/nope/runs"),
        ("GET", "/runs/1"),
        ("GET", "/runs/" + "9" * 18),
        ("GET", "/runs/" + "9" * 40),
        ("GET", "/runs/x"),
    ],
)
def test_what_does_not_exist_is_a_404(call: Call, method: str, path: str) -> None:
    body: dict[str, object] | None = {} if method == "PATCH" else None

    reply = call(method, path, body, status=404)

    assert reply.json["error"] == "Not Found"


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_only_json_is_given(call: Call, method: str, path: str) -> None:
    assert call(method, path, status=406, Accept="text/html").json["error"] == "Not Acceptable"


@pytest.mark.parametrize("accept", ["*/*", "text/html,*/*;q=0.8", "application/*"])
def test_who_also_takes_json_is_given_it(call: Call, accept: str) -> None:
    assert call("GET", "/flows", status=200, Accept=accept).content_type == "application/json"


@pytest.mark.parametrize(("method", "path"), [("POST", "/flows"), ("PATCH", "/flows/count")])
@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_only_json_is_taken(call: Call, method: str, path: str, kind: str) -> None:
    call(method, path, {"every": "1m"}, status=415, **{"Content-Type": kind})


@pytest.mark.parametrize(("method", "path"), [("POST", "/flows"), ("PATCH", "/flows/count")])
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe\xff", b'{"every": "\xe9"}', b"[" * 60_000, b"1" * 5_000, b"[]", b'"x"'],
    ids=["empty", "cut", "bytes", "latin-1", "deep", "long", "list", "text"],
)
def test_a_body_that_is_no_json_object_is_malformed(
    app: TestApp, method: str, path: str, body: bytes
) -> None:
    headers = {**AS_OPERATOR, "Content-Type": "application/json; charset=nope"}

    reply = app.request(f"/heartbeat{path}", method=method, headers=headers, body=body, status=400)

    assert reply.json["detail"].startswith("the body is no JSON")


# ---------------------------------------------------------------------------------------------
# Looking


def test_flows_are_listed_by_name_with_all_that_is_told_of_them(
    call: Call, dbsession: Session
) -> None:
    dbsession.add(data_flow(name="another", handler="count"))
    dbsession.commit()

    listed = call("GET", "/flows", status=200).json["flows"]

    assert [flow["name"] for flow in listed] == ["another", "count"]
    assert [set(flow) for flow in listed] == [MEMBERS, MEMBERS]


def test_a_flow_is_shown_as_people_type_it(call: Call) -> None:
    flow = call("GET", "/flows/count", status=200).json

    assert flow == {
        "name": "count",
        "handler": "count",
        "description": "Count birds.",
        "enabled": True,
        "every": "5m",
        "cron": None,
        "timezone": "UTC",
        "configuration": {"region": "eu"},
        "next_run_at": "2026-03-01T12:00:00+00:00",
        "last_run_at": None,
        "last_run_status": None,
        "last_success_at": None,
        "disabled_reason": None,
        "why": "No beat has come yet: let a scheduler call the heartbeat.",
        "next_slots": [f"2026-03-01T12:{minute:02}:00+00:00" for minute in range(0, 25, 5)],
    }


def test_what_became_of_a_flow_is_shown(app: TestApp, call: Call, post: Post) -> None:
    post(app)

    flow = call("GET", "/flows/count", status=200).json

    assert (flow["last_run_status"], flow["next_run_at"]) == (
        "success",
        "2026-03-01T12:05:00+00:00",
    )
    assert flow["last_run_at"] == flow["last_success_at"] == "2026-03-01T12:00:00+00:00"


# Servers take no text that is no JSON.
@pytest.mark.parametrize("stored", ["[1]", *(["{"] if DATABASE == "sqlite" else [])])
def test_a_configuration_that_cannot_be_read_hides_no_flow(
    call: Call, dbsession: Session, stored: str
) -> None:
    call("GET", "/flows", status=200)
    add_flow(call, "broken")
    dbsession.execute(
        text("UPDATE data_flows SET configuration = :stored WHERE name = 'broken'"),
        {"stored": stored},
    )
    dbsession.commit()

    shown = {flow["name"]: flow for flow in call("GET", "/flows", status=200).json["flows"]}
    call("PATCH", "/flows/broken", {"configuration": {"region": "us"}}, status=200)

    assert shown["count"]["configuration"] == {"region": "eu"}
    assert shown["broken"]["configuration"] in (None, [1])
    assert call("GET", "/flows/broken", status=200).json["configuration"] == {"region": "us"}


# ---------------------------------------------------------------------------------------------
# Adding


def add_flow(call: Call, name: str, *, status: int = 201, **members: object) -> Any:
    """Add a flow of the handler `count`."""
    body = {"name": name, "handler": "count", "every": "10m", **members}
    return call("POST", "/flows", body, status=status)


@pytest.mark.parametrize("name", ["count_us", "Käuzchen am See", "50% & more?", "a;b=c#d"])
def test_a_flow_is_added_and_its_location_leads_to_it(
    app: TestApp, call: Call, post: Post, name: str
) -> None:
    reply = add_flow(call, name, configuration={"region": "us"})

    assert reply.headers["Location"].isascii()
    assert app.get(path_of(reply), headers=AS_OPERATOR).json == reply.json
    assert (reply.json["name"], reply.json["every"]) == (name, "10m")
    assert post(app).json["flows_succeeded"] == 2


def test_flows_of_one_handler_each_have_their_own_configuration(
    app: TestApp, call: Call, post: Post, dbsession: Session
) -> None:
    add_flow(call, "count_us", configuration={"region": "us"})
    add_flow(call, "count_too")

    post(app)

    results = {name: runs_of(dbsession, name)[0].result for name in ("count_us", "count_too")}
    assert results == {
        "count_us": {"counted": {"region": "us"}},
        "count_too": {"counted": {"region": "eu"}},
    }


def test_a_flow_that_is_added_begins_as_its_handler_says(make_app: MakeApp) -> None:
    app = make_app((count, {"start": "next"}), **SECRET)
    body = {"name": "later", "handler": "count", "every": "1h"}

    flow = app.post_json("/heartbeat/flows", body, headers=AS_OPERATOR, status=201).json

    assert flow["next_run_at"] == "2026-03-01T13:00:00+00:00"


def test_a_flow_may_be_added_disabled(app: TestApp, call: Call, post: Post) -> None:
    reply = add_flow(call, "later", enabled=False).json

    assert reply["enabled"] is False
    assert reply["disabled_reason"].startswith("paused by the operator at ")
    assert post(app).json["flows_triggered"] == 1


def test_a_name_is_given_once(call: Call) -> None:
    add_flow(call, "twice")

    assert "'twice' already" in add_flow(call, "twice", status=409).json["detail"]
    add_flow(call, "count", status=409)
    add_flow(call, "Twice")


@pytest.mark.parametrize(
    ("members", "faults"),
    [
        ({"handler": "os.system"}, {"handler": "'os.system' is not registered; these are: count"}),
        ({"every": None}, {"every": "give either every or cron"}),
        ({"every": "soon"}, {"every": "'soon' is no interval"}),
        ({"every": "0s", "nonsense": 1}, {"every": "'0s' is no", "nonsense": "Extra inputs"}),
        ({"cron": "0 3 * * *"}, {"every": "give either every or cron"}),
        ({"cron": "0 3 * *", "every": None}, {"cron": "is no cron expression"}),
        ({"cron": "0 3 * * *" + " " * 200}, {"cron": "at most 200 characters"}),
        ({"timezone": "Mars"}, {"timezone": "'Mars' is no IANA time zone"}),
        ({"configuration": [1]}, {"configuration": "valid dictionary"}),
        ({"configuration": None}, {"configuration": "valid dictionary"}),
        ({"enabled": "perhaps"}, {"enabled": "valid boolean"}),
        ({"name": ""}, {"name": "should match pattern"}),
        ({"name": "a/b"}, {"name": "should match pattern"}),
        ({"name": "x" * 201}, {"name": "at most 200 characters"}),
        ({"name": 7}, {"name": "valid string"}),
        ({"run_interval": 60}, {"run_interval": "Extra inputs"}),
    ],
)
def test_what_cannot_be_is_refused_by_field(
    call: Call, dbsession: Session, members: dict[str, object], faults: dict[str, str]
) -> None:
    call("GET", "/flows", status=200)

    reply = call(
        "POST",
        "/flows",
        {"name": "new", "handler": "count", "every": "10m", **members},
        status=422,
    ).json

    assert set(reply["errors"]) == set(faults)
    for field, fault in faults.items():
        [told] = reply["errors"][field]
        assert fault in told
    assert dbsession.scalars(select(DataFlow.name)).all() == ["count"]


@pytest.mark.parametrize("rate", [b"NaN", b"[1e999]"])
def test_a_number_that_json_does_not_know_is_refused(app: TestApp, rate: bytes) -> None:
    headers = {**AS_OPERATOR, "Content-Type": "application/json"}
    body = b'{"configuration": {"rate": %b} }' % rate

    reply = app.request(
        "/heartbeat/flows/count", method="PATCH", headers=headers, body=body, status=422
    )

    [(field, [told])] = reply.json["errors"].items()
    assert field.startswith("configuration.rate")
    assert "finite number" in told


# ---------------------------------------------------------------------------------------------
# Changing


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


def test_disabling_says_by_whom_and_nothing_is_due(app: TestApp, call: Call, post: Post) -> None:
    flow = call("PATCH", "/flows/count", {"enabled": False}, status=200).json

    assert flow["disabled_reason"] == "paused by the operator at unknown"
    assert (flow["next_run_at"], flow["next_slots"]) == (None, [])
    assert post(app).json["flows_triggered"] == 0


def test_another_change_leaves_a_disabled_flow_disabled(call: Call) -> None:
    before = call("PATCH", "/flows/count", {"enabled": False}, status=200).json

    after = call("PATCH", "/flows/count", {"every": "1h", "configuration": {}}, status=200).json

    assert (after["enabled"], after["every"]) == (False, "1h")
    assert after["disabled_reason"] == before["disabled_reason"]


def test_who_disabled_a_flow_is_told_by_address(app: TestApp) -> None:
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
    make_app: MakeApp, gate: Gate, dbsession: Session
) -> None:
    app = make_app((lambda _run: gate.hold(), {"name": "hold"}), **SECRET)
    app.post("/heartbeat/flows/hold/runs", headers=AS_OPERATOR, status=202)
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
    """What a flow may declare of its configuration."""

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

    def test_a_run_whose_configuration_cannot_be_read_fails_of_that(
        modelled: TestApp, dbsession: Session
    ) -> None:
        modelled.get("/heartbeat/flows", headers=AS_OPERATOR)
        dbsession.execute(text("UPDATE data_flows SET configuration = '{'"))
        dbsession.commit()

        modelled.post("/heartbeat/flows/region/runs", headers=AS_OPERATOR, status=202)
        settle()

        [run] = dbsession.execute(select(DataFlowRun.status, DataFlowRun.error_type)).all()
        assert tuple(run) == ("failed", "ConfigurationError")


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


# ---------------------------------------------------------------------------------------------
# Running now


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
