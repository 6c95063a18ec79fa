"""The view of the beat route, and the views for all other paths below the prefix."""

from http import HTTPStatus

from pyramid.config import Configurator
from pyramid.exceptions import URLDecodeError
from pyramid.request import Request
from pyramid.response import Response

from ..core import Heartbeat
from ..members import RUNS, BeatMembers, BeatReply, BeatWithRuns, RunSummary, run_members
from ..models import DataFlowRun
from ..routes import is_below
from ..runs.beat import run_beat
from ..security.policy import BEAT
from .guard import add_guarded_view
from .operation import Operation
from .preferences import parse_preferences
from .problems import json_reply, problem

BEAT_OPERATION = Operation(
    summary="Run the flows that are due. 202 while some of their runs have not ended.",
    replies=dict.fromkeys((HTTPStatus.OK, HTTPStatus.ACCEPTED), BeatReply),
    request_headers={"Prefer": "return=representation, respond-async, wait=SECONDS (RFC 7240)"},
    reply_headers={"Preference-Applied": "the preferences that were applied"},
)


def includeme(config: Configurator) -> None:
    """Add the route and its view."""
    allow_get = config.registry["heartbeat"].settings.allow_get
    described = dict.fromkeys(("POST", "GET") if allow_get else ("POST",), BEAT_OPERATION)
    add_guarded_view(config, beat, "", BEAT, ("POST",), operations=described)
    config.add_view_predicate("below_heartbeat", _BelowPath)
    config.add_exception_view(
        malformed,
        context=URLDecodeError,
        below_heartbeat=True,
        heartbeat_permission=BEAT,
        heartbeat_methods=(),
    )


def include_unknown(config: Configurator) -> None:
    """Add the last route of the engine, which matches all other paths below the prefix."""
    add_guarded_view(config, unknown, "/*rest", BEAT, ())


def beat(request: Request) -> Response:
    """Run a beat. 200 when every run that it claimed has ended, 202 while some still run."""
    heartbeat: Heartbeat = request.heartbeat
    heartbeat.log_start()  # where a server other than Heartbeat's has started this process
    preferences = parse_preferences([request.environ.get("HTTP_PREFER", "")])
    wait = heartbeat.settings.wait if preferences.wait is None else preferences.wait
    source = request.environ["heartbeat.caller"].source
    report = run_beat(heartbeat, source, wait, answer_early=preferences.respond_async)
    body = BeatMembers.model_validate(report)
    if preferences.representation:
        body = BeatWithRuns(**body.model_dump(), runs=_runs(heartbeat, report.run_ids))
    is_unfinished = report.flows_in_progress or report.goes_on
    status = HTTPStatus.ACCEPTED if is_unfinished else HTTPStatus.OK
    applied = preferences.applied()
    return json_reply(status, body, {"Preference-Applied": applied} if applied else None)


def _runs(heartbeat: Heartbeat, ids: list[int]) -> list[RunSummary]:
    """Return the present state of this beat's runs."""
    with heartbeat.session() as session:
        rows = session.execute(RUNS.where(DataFlowRun.id.in_(ids)).order_by(DataFlowRun.id))
        return [run_members(row) for row in rows]


class _BelowPath:
    """A predicate: true for requests below the path, even if no route can match them."""

    def __init__(self, *_value_and_config: object) -> None:
        pass

    def text(self) -> str:
        return "below heartbeat.path"

    phash = text

    def __call__(self, _context: object, request: Request) -> bool:
        return is_below(request)


def malformed(_error: URLDecodeError, _request: Request) -> Response:
    """Refuse a path that is not UTF-8, for which Pyramid has no view."""
    return problem(HTTPStatus.BAD_REQUEST, "the path is not UTF-8")


def unknown(_request: Request) -> Response:
    """Answer 404 to an authorised caller."""
    return problem(HTTPStatus.NOT_FOUND, "there is no such resource")
