"""JSON resources for operators: the flows, and a run that is requested."""

from http import HTTPStatus

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from ...core import Heartbeat
from ...members import RunMembers, find_run
from ...views.operation import Operation
from ...views.problems import json_reply
from ...views.resources import add_resource, read_body
from . import operations
from .members import FlowList, FlowMembers
from .why import describe

# PostgreSQL refuses a text with NUL, and no name contains one.
NAME = r"{name:[^/\x00]+}"
OF_NAME = frozenset({HTTPStatus.NOT_FOUND})
OF_CONFLICT = frozenset({HTTPStatus.CONFLICT})
OF_BODY = frozenset({HTTPStatus.UNSUPPORTED_MEDIA_TYPE, HTTPStatus.UNPROCESSABLE_ENTITY})


def includeme(config: Configurator) -> None:
    """Add the routes and their views."""
    list_flows = Operation(summary="List the flows", replies={HTTPStatus.OK: FlowList})
    add = Operation(
        summary="Add a flow of a registered handler",
        body=operations.NewFlow,
        replies={HTTPStatus.CREATED: FlowMembers},
        problems=OF_BODY | OF_CONFLICT,
        reply_headers={"Location": "the path of the flow"},
    )
    show = Operation(summary="Show a flow", replies={HTTPStatus.OK: FlowMembers}, problems=OF_NAME)
    change = Operation(
        summary="Change the given members of a flow",
        body=operations.FlowChange,
        replies={HTTPStatus.OK: FlowMembers},
        problems=OF_NAME | OF_BODY | OF_CONFLICT,
    )
    remove = Operation(
        summary="Remove a flow with its history",
        replies={HTTPStatus.NO_CONTENT: None},
        problems=OF_NAME,
    )
    run_now = Operation(
        summary="Run a flow now. Its schedule does not change.",
        replies={HTTPStatus.ACCEPTED: RunMembers},
        problems=OF_NAME | OF_CONFLICT | {HTTPStatus.UNPROCESSABLE_ENTITY},
        reply_headers={"Location": "the path of the run"},
    )
    add_resource(config, flows, "/flows", {"GET": list_flows, "POST": add})
    of_flow = {"GET": show, "PATCH": change, "DELETE": remove}
    add_resource(config, flow, f"/flows/{NAME}", of_flow)
    add_resource(config, flow_runs, f"/flows/{NAME}/runs", {"POST": run_now})


def flows(heartbeat: Heartbeat, request: Request) -> Response:
    """List the flows, or add one."""
    if request.method == "GET":
        with heartbeat.session() as session:
            described = describe(heartbeat, session)
        return json_reply(HTTPStatus.OK, FlowList(flows=described))
    members = operations.add(heartbeat, read_body(request), _pause_reason(request))
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
    members = operations.change(heartbeat, name, read_body(request), pause_reason=reason)
    return json_reply(HTTPStatus.OK, members)


def flow_runs(heartbeat: Heartbeat, request: Request) -> Response:
    """Run a flow now. Its schedule does not change."""
    run_id = operations.run_now(heartbeat, request.matchdict["name"])
    # Its route is optional, too.
    place = f"{request.route_path('heartbeat.beat')}/runs/{run_id}"
    return json_reply(HTTPStatus.ACCEPTED, find_run(heartbeat, run_id), headers={"Location": place})


def _pause_reason(request: Request) -> str:
    return f"paused by the operator at {request.environ['heartbeat.caller'].source}"
