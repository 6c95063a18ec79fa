"""Optional: `GET /openapi.json`, the description of the routes in OpenAPI 3.1.

It is made of what each route declares beside its view (`views/operation.py`), so that it describes
the optional parts that are there, and of the models that check input and present replies.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, RootModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from .. import VERSION
from ..core import Heartbeat
from ..security.policy import BEAT, OPEN, OPERATE
from ..views.operation import DescribedRoute, Operation
from ..views.problems import InputProblems, Problem, json_reply
from ..views.resources import add_resource

PATH = "/openapi.json"
# The errors, with the header that comes with each.
PROBLEMS = {
    HTTPStatus.BAD_REQUEST: ("The request cannot be read, or lacks its CSRF token.", None),
    HTTPStatus.UNAUTHORIZED: ("There is no valid token.", "WWW-Authenticate"),
    HTTPStatus.FORBIDDEN: ("This address, or this token, may not do this.", None),
    HTTPStatus.NOT_FOUND: ("There is no such flow or run.", None),
    HTTPStatus.METHOD_NOT_ALLOWED: ("Another method is needed.", "Allow"),
    HTTPStatus.NOT_ACCEPTABLE: ("The route has no such representation.", None),
    HTTPStatus.CONFLICT: ("The name is taken, or a run is active.", None),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ("The body is larger than 64 KiB.", None),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: ("The body is not application/json.", None),
    HTTPStatus.UNPROCESSABLE_ENTITY: ("The input is invalid: the reasons by field.", None),
    HTTPStatus.TOO_MANY_REQUESTS: ("There are too many calls without a token.", "Retry-After"),
    HTTPStatus.INTERNAL_SERVER_ERROR: ("Unexpected: the log has the details.", None),
    HTTPStatus.SERVICE_UNAVAILABLE: ("The database or the tokens are not ready.", "Retry-After"),
}
# Those that only some routes have: the others come from the guard.
DECLARED = {
    *(HTTPStatus.NOT_FOUND, HTTPStatus.NOT_ACCEPTABLE, HTTPStatus.CONFLICT),
    *(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, HTTPStatus.UNPROCESSABLE_ENTITY),
}
# Those of routes that are open to everybody.
OPEN_PROBLEMS = {
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
}
# A placeholder of a pattern, with its regular expression, which may have a count in braces.
_PLACEHOLDER = re.compile(r"\{(\w+)(?::((?:[^{}]|\{[^{}]*\})*))?\}")
_SCHEMAS = "#/components/schemas/"


class OpenApiDocument(RootModel[dict[str, Any]]):
    """A document of OpenAPI 3.1."""


def includeme(config: Configurator) -> None:
    """Add the route and its view."""
    show = Operation(summary="Describe the routes", replies={HTTPStatus.OK: OpenApiDocument})
    add_resource(config, openapi, PATH, {"GET": show})


def openapi(heartbeat: Heartbeat, request: Request) -> Response:
    """Describe the routes that this application has."""
    base = request.path.removesuffix(PATH)
    routes: list[DescribedRoute] = request.registry["heartbeat.routes"]
    is_throttled = "heartbeat.throttle" in request.registry
    document = describe(base, routes, heartbeat, is_throttled=is_throttled)
    return json_reply(HTTPStatus.OK, document)


def describe(
    base: str, routes: Sequence[DescribedRoute], heartbeat: Heartbeat, *, is_throttled: bool
) -> dict[str, Any]:
    """Return the document for routes below the path `base`."""
    refs, schemas = _schemas(routes)
    operations = [each for route in routes for each in route.operations.values()]
    queries = {refs[each.query, "validation"]["$ref"] for each in operations if each.query}
    guarded = PROBLEMS.keys() - DECLARED
    if not is_throttled:
        guarded -= {HTTPStatus.TOO_MANY_REQUESTS}
    operator: list[dict[str, list[str]]] = [{"operator": []}, {"operator_header": []}]
    beat = [{"beat": []}, {"beat_header": []}, *operator]
    if not heartbeat.settings.require_token:
        beat.append({})
    security = {BEAT: beat, OPEN: [{}], OPERATE: operator}
    paths: dict[str, Any] = {}
    for route in routes:
        path = paths.setdefault(base + _PLACEHOLDER.sub(r"{\1}", route.pattern), {})
        if parameters := [*_path_parameters(route.pattern)]:
            path["parameters"] = parameters
        answered = OPEN_PROBLEMS if route.permission == OPEN else guarded
        for method, operation in route.operations.items():
            path[method.lower()] = {
                "operationId": f"{method.lower()}_{route.name}",
                "summary": operation.summary,
                "security": security[route.permission],
                **_operation(operation, refs, schemas, answered),
            }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Heartbeat", "version": VERSION},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            # The properties of queries are parameters instead.
            "schemas": {k: v for k, v in schemas.items() if _SCHEMAS + k not in queries},
            "responses": {str(status.value): _problem(status) for status in PROBLEMS},
            "securitySchemes": _security_schemes(),
        },
    }


def _schemas(
    routes: Sequence[DescribedRoute],
) -> tuple[Mapping[Any, dict[str, Any]], dict[str, Any]]:
    """Return the reference to each model, by model and mode, and the schemas by name."""
    modes: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {
        (Problem, "serialization"): None,
        (InputProblems, "serialization"): None,
    }
    for route in routes:
        for operation in route.operations.values():
            for model in filter(None, (operation.query, operation.body)):
                modes[model, "validation"] = None
            for reply in filter(None, operation.replies.values()):
                modes[reply, "serialization"] = None
    refs, definitions = models_json_schema([*modes], ref_template=_SCHEMAS + "{model}")
    return refs, definitions["$defs"]


def _operation(
    operation: Operation,
    refs: Mapping[Any, dict[str, Any]],
    schemas: Mapping[str, Any],
    guarded: AbstractSet[HTTPStatus],
) -> dict[str, Any]:
    """Return the input of an operation and its responses."""
    described: dict[str, Any] = {}
    parameters = [
        {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
        for name, text in operation.request_headers.items()
    ]
    if operation.query:
        model = schemas[refs[operation.query, "validation"]["$ref"].removeprefix(_SCHEMAS)]
        parameters += [
            {"name": name, "in": "query", "schema": _without_null(schema)}
            for name, schema in model["properties"].items()
        ]
    if parameters:
        described["parameters"] = parameters
    if operation.body:
        content = {"application/json": {"schema": refs[operation.body, "validation"]}}
        described["requestBody"] = {"required": True, "content": content}
    headers = {
        name: {"description": text, "schema": {"type": "string"}}
        for name, text in operation.reply_headers.items()
    }
    responses: dict[HTTPStatus, dict[str, Any]] = {
        status: {"$ref": f"#/components/responses/{status.value}"}
        for status in guarded | operation.problems
    }
    for status, reply in operation.replies.items():
        responses[status] = {"description": status.phrase, "headers": headers}
        if reply:
            schema = refs[reply, "serialization"]
            responses[status]["content"] = {"application/json": {"schema": schema}}
        elif operation.text_replies:
            text = {"schema": {"type": "string"}}
            responses[status]["content"] = dict.fromkeys(operation.text_replies, text)
    described["responses"] = {str(status.value): responses[status] for status in sorted(responses)}
    return described


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter, which is left out instead of being null."""
    kept = {key: value for key, value in schema.items() if (key, value) != ("default", None)}
    options = [each for each in kept.pop("anyOf", []) if each != {"type": "null"}]
    return kept | ({"anyOf": options} if len(options) > 1 else dict(*options))


def _problem(status: HTTPStatus) -> dict[str, Any]:
    """Return the response for an error."""
    text, header = PROBLEMS[status]
    model = InputProblems if status is HTTPStatus.UNPROCESSABLE_ENTITY else Problem
    schema = {"$ref": _SCHEMAS + model.__name__}
    response: dict[str, Any] = {
        "description": text,
        "content": {"application/problem+json": {"schema": schema}},
    }
    if header:
        response["headers"] = {header: {"required": True, "schema": {"type": "string"}}}
    return response


def _path_parameters(pattern: str) -> Iterator[dict[str, Any]]:
    for name, expression in _PLACEHOLDER.findall(pattern):
        schema = {"type": "string", "pattern": f"^{expression or '[^/]+'}$"}
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _security_schemes() -> dict[str, Any]:
    """Return the two headers of each role."""
    schemes: dict[str, Any] = {}
    roles = {"beat": "the scheduler's token", "operator": "an operator's token"}
    for role, whose in roles.items():
        schemes[role] = {"type": "http", "scheme": "bearer", "description": whose}
        header = {"type": "apiKey", "in": "header", "name": "X-Heartbeat-Token"}
        schemes[f"{role}_header"] = {**header, "description": whose}
    return schemes
