"""JSON resources for operators: the history of runs and of beats."""

from collections.abc import Sequence
from http import HTTPStatus

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from ...core import Heartbeat
from ...members import RunMembers, find_run
from ...views.operation import Operation
from ...views.problems import json_reply
from ...views.resources import add_resource, read_query
from .lists import list_beats, list_runs
from .members import BeatList, PageQuery, RunList, RunQuery, StoredBeat
from .rhythms import rhythms


def includeme(config: Configurator) -> None:
    """Add the routes and their views."""
    link = {"Link": 'the next page, with rel="next" (RFC 8288)'}
    invalid, unknown = HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.NOT_FOUND
    list_runs_operation = Operation(
        summary="List runs, newest first",
        query=RunQuery,
        replies={HTTPStatus.OK: RunList},
        problems=frozenset({invalid, unknown}),
        reply_headers=link,
    )
    show_run = Operation(
        summary="Show a run", replies={HTTPStatus.OK: RunMembers}, problems=frozenset({unknown})
    )
    list_beats_operation = Operation(
        summary="List beats, newest first, and the rhythm of each source",
        query=PageQuery,
        replies={HTTPStatus.OK: BeatList},
        problems=frozenset({invalid}),
        reply_headers=link,
    )
    add_resource(config, runs, "/runs", {"GET": list_runs_operation})
    add_resource(config, run, "/runs/{id:[0-9]{1,18}}", {"GET": show_run})
    add_resource(config, beats, "/beats", {"GET": list_beats_operation})


def runs(heartbeat: Heartbeat, request: Request) -> Response:
    """List runs, newest first."""
    query = read_query(request, RunQuery)
    with heartbeat.session() as session:
        found = list_runs(session, **query.model_dump() | {"limit": query.limit + 1})
    page = RunList(runs=found[: query.limit])
    return json_reply(HTTPStatus.OK, page, next_link(request, query, found))


def run(heartbeat: Heartbeat, request: Request) -> Response:
    """Show a run."""
    return json_reply(HTTPStatus.OK, find_run(heartbeat, int(request.matchdict["id"])))


def beats(heartbeat: Heartbeat, request: Request) -> Response:
    """List beats, newest first, and the rhythm of each source."""
    query = read_query(request, PageQuery)
    with heartbeat.session() as session:
        found = list_beats(session, limit=query.limit + 1, before=query.before)
        judged = rhythms(session, heartbeat.clock.now())
    page = BeatList(beats=found[: query.limit], rhythms=judged)
    return json_reply(HTTPStatus.OK, page, next_link(request, query, found))


def next_link(
    request: Request, query: PageQuery, found: Sequence[RunMembers | StoredBeat]
) -> dict[str, str]:
    """Return the header `Link` (RFC 8288) to the next page; none if `found` ends with this one.

    found: the rows of the page, and one more if there is one.
    """
    if len(found) <= query.limit:
        return {}
    given = query.model_dump(mode="json", exclude_unset=True)
    given["before"] = found[query.limit - 1].id
    return {"Link": f'<{request.current_route_path(_query=given)}>; rel="next"'}
