"""The route that an outside scheduler calls."""

from http import HTTPStatus

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from ..core import Heartbeat
from ..members import RUNS, BeatMembers, BeatWithRuns, RunSummary, run_members
from ..models import DataFlowRun
from ..runs.beat import run_beat
from ..security.policy import BEAT
from .guard import add_guarded_view
from .preferences import parse_preferences
from .problems import json_reply


def includeme(config: Configurator) -> None:
    """Add the route and its view."""
    add_guarded_view(config, beat, "", BEAT, ("POST",))


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
    body = BeatMembers.model_validate(report)
    if preferences.representation:
        body = BeatWithRuns(**body.model_dump(), runs=_runs(heartbeat, report.run_ids))
    applied = preferences.applied()
    unfinished = report.flows_in_progress or report.goes_on
    return json_reply(
        HTTPStatus.ACCEPTED if unfinished else HTTPStatus.OK,
        body,
        headers={"Preference-Applied": applied} if applied else None,
    )


def _runs(heartbeat: Heartbeat, ids: list[int]) -> list[RunSummary]:
    """Return what has become of this beat's runs so far."""
    with heartbeat.session() as session:
        rows = session.execute(RUNS.where(DataFlowRun.id.in_(ids)).order_by(DataFlowRun.id))
        return [run_members(row) for row in rows]
