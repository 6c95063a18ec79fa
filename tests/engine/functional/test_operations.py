"""An operator over HTTP: access, and viewing and adding flows."""

import os

import pytest
from sqlalchemy import make_url, select, text
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat.models import DataFlow

from ..conftest import TOKEN, MakeApp
from ..factories import data_flow
from .operated import AS_OPERATOR, SECRET, Call, Post, add_flow, count, path_of, runs_of

AS_SCHEDULER = {"Authorization": f"Bearer {TOKEN}"}
MEMBERS = {
    *("name", "handler", "description", "enabled", "every", "cron", "timezone", "configuration"),
    *("next_run_at", "last_run_at", "last_run_status", "last_success_at", "disabled_reason"),
    *("why", "next_slots", "stale"),
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


@pytest.fixture
def app(make_app: MakeApp) -> TestApp:
    """Make an application with one flow, `count`, every five minutes."""
    return make_app((count, {"configuration": {"region": "eu"}}), **SECRET)


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
def test_another_method_names_the_allowed_ones(
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
        ("GET", "/flows/a%00b"),
        ("PATCH", "/flows/a%00b"),
        ("DELETE", "/flows/a%00b"),
        ("POST", "/flows/a%00b/runs"),
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
    assert (
        call(method, path, status=406, Accept="application/xml").json["error"] == "Not Acceptable"
    )


@pytest.mark.parametrize("accept", ["*/*", "text/plain,*/*;q=0.8", "application/*"])
def test_a_caller_that_also_accepts_json_gets_json(call: Call, accept: str) -> None:
    assert call("GET", "/flows", status=200, Accept=accept).content_type == "application/json"


@pytest.mark.parametrize(("method", "path"), [("POST", "/flows"), ("PATCH", "/flows/count")])
@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_only_json_is_taken(call: Call, method: str, path: str, kind: str) -> None:
    call(method, path, {"every": "1m"}, status=415, **{"Content-Type": kind})


@pytest.mark.parametrize(
    "kind",
    ["Application/JSON", "application/json ; charset=utf-8", "application/json;charset=utf-8"],
)
def test_json_is_taken_however_its_media_type_is_written(call: Call, kind: str) -> None:
    call("PATCH", "/flows/count", {"every": "1m"}, status=200, **{"Content-Type": kind})


@pytest.mark.parametrize(("method", "path"), [("POST", "/flows"), ("PATCH", "/flows/count")])
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe\xff", b'{"every": "\xe9"}', b"[" * 60_000, b"1" * 5_000, b"[]", b'"x"'],
    ids=["empty", "cut", "bytes", "latin-1", "deep", "long", "list", "text"],
)
def test_a_body_that_is_not_an_object_is_malformed(
    app: TestApp, method: str, path: str, body: bytes
) -> None:
    headers = {**AS_OPERATOR, "Content-Type": "application/json; charset=nope"}

    reply = app.request(f"/heartbeat{path}", method=method, headers=headers, body=body, status=400)

    assert reply.json["detail"].startswith("the body is not a JSON")


# ---------------------------------------------------------------------------------------------
# Looking


def test_flows_are_listed_by_name_with_all_their_members(call: Call, dbsession: Session) -> None:
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
        "why": "No beat has come yet: set up a scheduler that calls the heartbeat.",
        "next_slots": [f"2026-03-01T12:{minute:02}:00+00:00" for minute in range(0, 25, 5)],
        "stale": False,
    }


def test_what_became_of_a_flow_is_shown(app: TestApp, call: Call, post: Post) -> None:
    post(app)

    flow = call("GET", "/flows/count", status=200).json

    assert (flow["last_run_status"], flow["next_run_at"]) == (
        "success",
        "2026-03-01T12:05:00+00:00",
    )
    assert flow["last_run_at"] == flow["last_success_at"] == "2026-03-01T12:00:00+00:00"


# Servers refuse text that is not JSON.
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


def test_a_flow_that_is_added_begins_as_its_handler_declares(make_app: MakeApp) -> None:
    app = make_app((count, {"start": "next"}), **SECRET)
    body = {"name": "later", "handler": "count", "every": "1h"}

    flow = app.post_json("/heartbeat/flows", body, headers=AS_OPERATOR, status=201).json

    assert flow["next_run_at"] == "2026-03-01T13:00:00+00:00"


def test_a_flow_that_is_added_has_the_options_of_its_handler(
    make_app: MakeApp, dbsession: Session
) -> None:
    options = {"on_lost": "retry", "retries": 3, "retry_delay": "2m", "pause_after": 5}
    app = make_app((count, options), **SECRET)
    body = {"name": "another", "handler": "count", "every": "1h"}

    app.post_json("/heartbeat/flows", body, headers=AS_OPERATOR, status=201)

    row = dbsession.scalars(select(DataFlow).where(DataFlow.name == "another")).one()
    assert (row.on_lost, row.retries, row.retry_delay, row.pause_after) == ("retry", 3, 120, 5)


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
    ("members", "problems"),
    [
        ({"handler": "os.system"}, {"handler": "'os.system' is not registered; these are: count"}),
        ({"every": None}, {"every": "give either every or cron"}),
        ({"every": "soon"}, {"every": "'soon' is not a valid interval"}),
        (
            {"every": "0s", "nonsense": 1},
            {"every": "'0s' is not a valid interval", "nonsense": "no such field"},
        ),
        ({"cron": "0 3 * * *"}, {"every": "give either every or cron"}),
        ({"cron": "0 3 * *", "every": None}, {"cron": "is not a valid cron expression"}),
        ({"cron": "0 3 * * *" + " " * 200}, {"cron": "at most 200 characters"}),
        ({"timezone": "Mars"}, {"timezone": "'Mars' is not an IANA time zone"}),
        ({"configuration": [1]}, {"configuration": "valid dictionary"}),
        ({"configuration": None}, {"configuration": "valid dictionary"}),
        ({"enabled": "perhaps"}, {"enabled": "valid boolean"}),
        ({"name": ""}, {"name": "should match pattern"}),
        ({"name": "a/b"}, {"name": "should match pattern"}),
        ({"name": "x" * 201}, {"name": "at most 200 characters"}),
        ({"name": 7}, {"name": "valid string"}),
        ({"run_interval": 60}, {"run_interval": "no such field"}),
    ],
)
def test_what_cannot_be_is_refused_by_field(
    call: Call, dbsession: Session, members: dict[str, object], problems: dict[str, str]
) -> None:
    call("GET", "/flows", status=200)

    reply = call(
        "POST",
        "/flows",
        {"name": "new", "handler": "count", "every": "10m", **members},
        status=422,
    ).json

    assert set(reply["errors"]) == set(problems)
    for field, problem in problems.items():
        [reported] = reply["errors"][field]
        assert problem in reported
    assert dbsession.scalars(select(DataFlow.name)).all() == ["count"]
