"""The route that an outside scheduler calls."""

from http import HTTPStatus
from typing import Any

from pyramid.config import Configurator
from pyramid.exceptions import URLDecodeError
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED
from sqlalchemy import select

from ..core import Heartbeat
from ..models import DataFlow, DataFlowRun
from ..redaction import error_of
from ..runs.beat import BeatReport, run_beat
from ..security.policy import BEAT
from .preferences import parse_preferences
from .problems import json_reply, problem


def includeme(config: Configurator) -> None:
    """Add the view. It is guarded by the token, which no cookie can replace: CSRF has no say."""
    for view, methods in ((beat, ("POST",)), (unknown, ())):
        config.add_view(
            view,
            route_name=f"heartbeat.{view.__name__}",
            permission=NO_PERMISSION_REQUIRED,
            require_csrf=False,
            heartbeat_permission=BEAT,
            heartbeat_methods=methods,
        )
    config.add_view_predicate("below_heartbeat", _BelowPath)
    config.add_exception_view(
        malformed,
        context=URLDecodeError,
        below_heartbeat=True,
        heartbeat_permission=BEAT,
        heartbeat_methods=(),
    )


class _BelowPath:
    """True for requests below the path, also where no route can match what they ask for."""

    def __init__(self, *_value_and_config: object) -> None:
        pass

    def text(self) -> str:
        return "below heartbeat.path"

    phash = text

    def __call__(self, _context: object, request: Request) -> bool:
        path: str = request.heartbeat.settings.path
        return str(request.environ.get("PATH_INFO", "")).startswith(path)


def malformed(_error: URLDecodeError, _request: Request) -> Response:
    """Refuse a path that is no text, for which Pyramid has no answer of its own."""
    return problem(HTTPStatus.BAD_REQUEST, "the path is not UTF-8")


def unknown(_request: Request) -> Response:
    """Say that there is nothing at this place, to whom may know."""
    return problem(HTTPStatus.NOT_FOUND, "there is no such resource")


def beat(request: Request) -> Response:
    """Run a beat. 200 when every run that it claimed has ended, 202 while some still run."""
    heartbeat: Heartbeat = request.heartbeat
    preferences = parse_preferences([request.environ.get("HTTP_PREFER", "")])
    report = run_beat(
        heartbeat,
        request.environ["heartbeat.caller"].source,
        heartbeat.settings.wait if preferences.wait is None else preferences.wait,
        answer_early=preferences.respond_async,
    )
    body = reply(report)
    if preferences.representation:
        body["runs"] = _runs(heartbeat, report.run_ids)
    applied = preferences.applied()
    unfinished = report.flows_in_progress or report.goes_on
    return json_reply(
        HTTPStatus.ACCEPTED if unfinished else HTTPStatus.OK,
        body,
        headers={"Preference-Applied": applied} if applied else None,
    )


def reply(report: BeatReport) -> dict[str, Any]:
    """Return the members of the JSON reply."""
    return {"timestamp": report.timestamp.isoformat(), **report.counts()}


def _runs(heartbeat: Heartbeat, ids: list[int]) -> list[dict[str, Any]]:
    """Return what became of this beat's runs, by now."""
    flows_runs = select(DataFlowRun, DataFlow.name).join(DataFlowRun.data_flow)
    mine = flows_runs.where(DataFlowRun.id.in_(ids)).order_by(DataFlowRun.id)
    with heartbeat.session() as session:
        return [members(run, flow) for run, flow in session.execute(mine)]


def members(run: DataFlowRun, flow: str) -> dict[str, Any]:
    """Return the members that tell of a run."""
    told = ("status", "scheduled_for", "started_at", "ended_at", "duration")
    row = {name: getattr(run, name) for name in told}
    return {"id": run.id, "flow": flow, **row, "error": error_of(run.error_type, run.error_message)}
