"""`GET /openapi.json`: a valid description of the routes that there are, for operators."""

from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from webtest import TestApp

from ..conftest import TOKEN, MakeApp
from .operated import SECRET, as_operator

# The contract's resources that are built, their methods and the statuses of their replies.
GUARDED = "400 401 403 405 413 429 500 503"
OPERATED = f"{GUARDED} 406"
RESOURCES = {
    "": {"post": f"200 202 {GUARDED}"},
    "/flows": {"get": f"200 {OPERATED}", "post": f"201 {OPERATED} 409 415 422"},
    "/flows/{name}": {
        "get": f"200 {OPERATED} 404",
        "patch": f"200 {OPERATED} 404 409 415 422",
        "delete": f"204 {OPERATED} 404",
    },
    "/flows/{name}/runs": {"post": f"202 {OPERATED} 404 409 422"},
    "/runs": {"get": f"200 {OPERATED} 404 422"},
    "/runs/{id}": {"get": f"200 {OPERATED} 404"},
    "/beats": {"get": f"200 {OPERATED} 422"},
    "/openapi.json": {"get": f"200 {OPERATED}"},
    "/metrics": {"get": f"200 {OPERATED}"},
    "/health/live": {"get": "200 405 500 503"},
    "/health": {"get": "200 405 500 503"},
    "/health/beats": {"get": "200 405 500 503"},
}


@pytest.fixture
def document(make_app: MakeApp) -> dict[str, Any]:
    """Get the description of an application."""
    found: dict[str, Any] = as_operator(make_app(**SECRET))("GET", "/openapi.json", status=200).json
    return found


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert [str(each) for each in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_each_route_is_described_with_all_its_statuses(document: dict[str, Any]) -> None:
    found = {
        path: {
            method: {*operation["responses"]}
            for method, operation in methods.items()
            if method != "parameters"
        }
        for path, methods in document["paths"].items()
    }

    assert found == {
        f"/heartbeat{path}": {method: {*codes.split()} for method, codes in methods.items()}
        for path, methods in RESOURCES.items()
    }


def test_input_replies_and_errors_have_the_members_of_their_models(
    document: dict[str, Any],
) -> None:
    schemas, paths = document["components"]["schemas"], document["paths"]

    for name in ("FlowMembers", "RunMembers", "StoredBeat", "BeatMembers", "InputProblems"):
        assert {*schemas[name]["required"]} >= {*schemas[name]["properties"]} - {"type", "note"}, (
            name
        )
    body = paths["/heartbeat/flows/{name}"]["patch"]["requestBody"]["content"]
    assert body == {"application/json": {"schema": {"$ref": "#/components/schemas/FlowChange"}}}
    assert {*schemas["FlowChange"]["properties"]} == {
        *("name", "enabled", "every", "cron", "timezone", "configuration")
    }
    query = {each["name"]: each["schema"] for each in paths["/heartbeat/runs"]["get"]["parameters"]}
    assert [*query] == ["limit", "before", "flow", "status"]
    assert (query["limit"]["default"], query["limit"]["maximum"]) == (50, 500)
    assert paths["/heartbeat/runs/{id}"]["parameters"] == [
        {
            "name": "id",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
        }
    ]


def test_headers_and_security_are_described(document: dict[str, Any]) -> None:
    paths, components = document["paths"], document["components"]

    beat, runs = paths["/heartbeat"]["post"], paths["/heartbeat/runs"]["get"]
    assert [each["name"] for each in beat["parameters"]] == ["Prefer"]
    assert [*beat["responses"]["200"]["headers"]] == ["Preference-Applied"]
    assert [*runs["responses"]["200"]["headers"]] == ["Link"]
    headers = {
        status: [*each.get("headers", {})] for status, each in components["responses"].items()
    }
    assert headers["401"] == ["WWW-Authenticate"]
    assert headers["429"] == headers["503"] == ["Retry-After"]
    names = [name for each in runs["security"] for name in each]
    assert names == ["operator", "operator_header"]
    assert [name for each in beat["security"] for name in each] == ["beat", "beat_header", *names]
    assert components["securitySchemes"].keys() == {"beat", "beat_header", *names}


def test_only_operators_may_read_it(make_app: MakeApp) -> None:
    app: TestApp = make_app(**SECRET)

    app.get("/heartbeat/openapi.json", status=401)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    app.get("/heartbeat/openapi.json", headers=headers, status=403)


def test_the_settings_of_the_beat_and_its_path_are_described(make_app: MakeApp) -> None:
    settings = {"heartbeat.require_token": "false", "heartbeat.path": "/beat/here"}
    settings |= {"heartbeat.allow_get": "true"}
    app = make_app(**SECRET, **settings)

    document = app.get(
        "/beat/here/openapi.json",
        headers={"Authorization": f"Bearer {SECRET['heartbeat.operator_token']}"},
        extra_environ={"SCRIPT_NAME": "/app"},
    ).json

    beat = document["paths"]["/app/beat/here"]
    assert {} in beat["post"]["security"]
    assert beat["get"]["responses"] == beat["post"]["responses"]
    assert "/app/beat/here/runs/{id}" in document["paths"]
