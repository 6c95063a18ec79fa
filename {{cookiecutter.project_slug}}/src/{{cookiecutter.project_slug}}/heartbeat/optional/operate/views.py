"""JSON resources for operators: flows and runs."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pyramid.config import Configurator
from pyramid.httpexceptions import exception_response
from pyramid.request import Request
from pyramid.response import Response

from ...core import Heartbeat
from ...errors import (
    DatabaseBusyError,
    DataFlowError,
    InputError,
    UnknownFlowError,
    UnknownRunError,
)
from ...json_values import MAX_JSON_DEPTH
from ...members import find_run
from ...runs.register import register
from ...security.policy import OPERATE
from ...views.guard import add_guarded_view
from ...views.problems import json_reply, problem
from . import operations
from .why import describe

# Other errors are conflicts, such as a name that is taken or an active run.
STATUSES = {
    UnknownFlowError: HTTPStatus.NOT_FOUND,
    UnknownRunError: HTTPStatus.NOT_FOUND,
    InputError: HTTPStatus.UNPROCESSABLE_ENTITY,
}
# PostgreSQL refuses a text with NUL, and no name contains one.
NAME = r"{name:[^/\x00]+}"
_OBJECT = TypeAdapter(dict[str, Any])


def includeme(config: Configurator) -> None:
    """Add the routes and their views."""
    for view, pattern, methods in (
        (flows, "/flows", ("GET", "POST")),
        (flow, f"/flows/{NAME}", ("GET", "PATCH", "DELETE")),
        (flow_runs, f"/flows/{NAME}/runs", ("POST",)),
        (run, "/runs/{id:[0-9]{1,18}}", ("GET",)),
    ):
        add_guarded_view(config, _answering(view), pattern, OPERATE, methods)


def flows(heartbeat: Heartbeat, request: Request) -> Response:
    """List the flows, or add one."""
    if request.method == "GET":
        with heartbeat.session() as session:
            described = describe(heartbeat, session)
        return json_reply(HTTPStatus.OK, {"flows": described})
    members = operations.add(heartbeat, _body(request), _pause_reason(request))
    place = request.route_path("heartbeat.flow", name=members.name)
    return json_reply(HTTPStatus.CREATED, members, headers={"Location": place})


def flow(heartbeat: Heartbeat, request: Request) -> Response:
    """Show a flow, change the given members of it, or remove it with its history."""
    name = request.matchdict["name"]
    if request.method == "DELETE":
        operations.remove(heartbeat, name)
        return Response(status=HTTPStatus.NO_CONTENT, headerlist=[("Cache-Control", "no-store")])
    if request.method == "GET":
        with heartbeat.session() as session:
            [described] = describe(heartbeat, session, name)
        return json_reply(HTTPStatus.OK, described)
    reason = _pause_reason(request)
    members = operations.change(heartbeat, name, _body(request), pause_reason=reason)
    return json_reply(HTTPStatus.OK, members)


def flow_runs(heartbeat: Heartbeat, request: Request) -> Response:
    """Run a flow now. Its schedule does not change."""
    run_id = operations.run_now(heartbeat, request.matchdict["name"])
    place = request.route_path("heartbeat.run", id=run_id)
    return json_reply(HTTPStatus.ACCEPTED, find_run(heartbeat, run_id), headers={"Location": place})


def run(heartbeat: Heartbeat, request: Request) -> Response:
    """Show a run."""
    return json_reply(HTTPStatus.OK, find_run(heartbeat, int(request.matchdict["id"])))


def _answering(view: Callable[[Heartbeat, Request], Response]) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        if not request.accept.acceptable_offers(["application/json"]):
            raise exception_response(406, detail="only application/json is available")
        register(request.heartbeat)
        try:
            return view(request.heartbeat, request)
        except DatabaseBusyError:
            raise
        except DataFlowError as error:
            members = {"errors": error.errors} if isinstance(error, InputError) else {}
            status = STATUSES.get(type(error), HTTPStatus.CONFLICT)
            return problem(status, str(error), None, **members)

    answer.__name__ = view.__name__
    return answer


def _body(request: Request) -> dict[str, Any]:
    if request.content_type.strip().lower() != "application/json":
        raise exception_response(415, detail="send application/json")
    try:
        return _OBJECT.validate_json(request.body)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        if "recursion limit" in reason and request.body.lstrip().startswith(b"{"):
            depth = f"is nested deeper than {MAX_JSON_DEPTH} levels"
            raise InputError({"body": [depth]}) from error
        raise exception_response(400, detail=f"the body is not a JSON object: {reason}") from error


def _pause_reason(request: Request) -> str:
    return f"paused by the operator at {request.environ['heartbeat.caller'].source}"
