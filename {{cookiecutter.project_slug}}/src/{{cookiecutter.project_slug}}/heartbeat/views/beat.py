"""The route that an outside scheduler calls."""

from http import HTTPStatus
from typing import Any

from pyramid.config import Configurator
from pyramid.exceptions import URLDecodeError
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED

from ..core import Heartbeat
from ..members import RUNS, RunSummary, run_members
from ..models import DataFlowRun
from ..routes import add_route, is_below
from ..runs.beat import run_beat
from ..runs.report import BeatReport
from ..security.policy import BEAT
from .preferences import parse_preferences
from .problems import json_reply, problem

SUMMARY = {*RunSummary.model_fields}


def includeme(config: Configurator) -> None:
    """Add the route and its view, guarded by the token, which no cookie can replace."""
    _add(config, beat, "", ("POST",))
    config.add_view_predicate("below_heartbeat", _BelowPath)
    config.add_exception_view(
        malformed,
        context=URLDecodeError,
        below_heartbeat=True,
        heartbeat_permission=BEAT,
        heartbeat_methods=(),
    )


def include_unknown(config: Configurator) -> None:
    """Add what answers to all else below the path: the last one of the engine's routes."""
    _add(config, unknown, "/*rest", ())


def _add(config: Configurator, view: Any, pattern: str, methods: tuple[str, ...]) -> None:
    add_route(config, view.__name__, pattern)
    config.add_view(
        view,
        route_name=f"heartbeat.{view.__name__}",
        permission=NO_PERMISSION_REQUIRED,
        require_csrf=False,
        heartbeat_permission=BEAT,
        heartbeat_methods=methods,
    )


class _BelowPath:
    """True for requests below the path, also where no route can match what they ask for."""

    def __init__(self, *_value_and_config: object) -> None:
        pass

    def text(self) -> str:
        return "below heartbeat.path"

    phash = text

    def __call__(self, _context: object, request: Request) -> bool:
        return is_below(request)


def malformed(_error: URLDecodeError, _request: Request) -> Response:
    """Refuse a path that is not UTF-8, for which Pyramid has no view of its own."""
    return problem(HTTPStatus.BAD_REQUEST, "the path is not UTF-8")


def unknown(_request: Request) -> Response:
    """Answer authorised callers that nothing is at this path."""
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
    with heartbeat.session() as session:
        rows = session.execute(RUNS.where(DataFlowRun.id.in_(ids)).order_by(DataFlowRun.id))
        return [run_members(row).model_dump(include=SUMMARY) for row in rows]
