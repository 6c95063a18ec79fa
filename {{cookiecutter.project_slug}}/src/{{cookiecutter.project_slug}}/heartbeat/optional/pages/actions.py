"""What the forms of pages do. Each answers with a redirect to a page, or with what went wrong."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import sqlalchemy as sa
from pyramid.httpexceptions import exception_response
from pyramid.request import Request
from pyramid.response import Response

from ...core import Heartbeat
from ...db.stored import readable
from ...errors import DatabaseBusyError, DataFlowError, InputError, UnknownFlowError
from ...models import DataFlow
from ...run import Window
from ...views.resources import STATUSES
from ..operate import operations
from ..operate.bulk import (
    Outcome,
    pause_everything,
    pause_flows,
    resume_everything,
    resume_flows,
    run_flows,
)
from .flow import flow_page
from .flows import flow_ids
from .forms import WHOLE, read_form
from .sessions import prefix_of, see_other

LONGEST_REASON = 500


def act(request: Request) -> Response:
    """Do what the button `do` of a form says, for the flow `name` or for several flows."""
    # Browsers send CRLF, and pages show a CR as an escape.
    given = {key: str(value).replace("\r\n", "\n") for key, value in request.POST.items()}
    todo, name = given.get("do", ""), given.get("name", "").replace("\0", "")
    if todo in OF_MANY:
        return _act_on_many(request, given)
    rehearsal: Callable[..., Response] | None = request.registry.get("heartbeat.rehearsal")
    if todo not in OF_ONE and not (todo == "rehearse" and rehearsal):
        raise exception_response(400, detail="no such action")
    try:
        if rehearsal and todo == "rehearse":
            return rehearsal(request, name)
        return see_other(prefix_of(request) + OF_ONE[todo](request, name, given))
    except (DatabaseBusyError, UnknownFlowError):
        raise
    except DataFlowError as error:
        status = STATUSES.get(type(error), 409)
        errors = error.errors if isinstance(error, InputError) else {}
        problem = str(error)
        if todo == "save-and-run" and not isinstance(error, InputError):
            problem = f"The configuration is saved, but it does not run now: {problem}"
        return flow_page(request, name, status, problem=problem, typed=given, errors=errors)


def pause_reason(request: Request, given: Mapping[str, str]) -> str:
    """Return the reason of a pause: who asked for it, and why."""
    why = " ".join(given.get("reason", "").split())[:LONGEST_REASON]
    who = f"paused by the operator at {request.environ['heartbeat.caller'].source}"
    return f"{who}: {why}" if why else who


def _path_of_flow(name: str, did: str) -> str:
    return f"/flows/{quote(name, safe='')}?did={did}"


def _pause(request: Request, name: str, given: Mapping[str, str]) -> str:
    change = {"enabled": False}
    operations.change(request.heartbeat, name, change, pause_reason=pause_reason(request, given))
    return _path_of_flow(name, "paused")


def _resume(request: Request, name: str, _given: Mapping[str, str]) -> str:
    operations.change(request.heartbeat, name, {"enabled": True})
    return _path_of_flow(name, "resumed")


def _run(request: Request, name: str, _given: Mapping[str, str]) -> str:
    return _path_of_run(request, name, operations.run_now(request.heartbeat, name))


def _path_of_run(request: Request, name: str, run_id: int) -> str:
    has_page = "run" in request.registry["heartbeat.pages"]
    return f"/runs/{run_id}?did=requested" if has_page else _path_of_flow(name, "requested")


def _backfill(request: Request, name: str, given: Mapping[str, str]) -> str:
    window = _read_window(given.get("from", ""), given.get("to", ""))
    if window is None or not window.start < window.end <= request.heartbeat.clock.now():
        raise InputError({"window": ["must be two times with a zone, in order, of the past"]})
    return _path_of_run(request, name, operations.run_now(request.heartbeat, name, window))


def _read_window(start: str, end: str) -> Window | None:
    try:
        times = [datetime.fromisoformat(text) for text in (start, end)]
        if any(each.tzinfo is None for each in times):
            return None
        return Window(*(each.astimezone(UTC) for each in times))
    except (ValueError, OverflowError):
        return None


def _save(request: Request, name: str, given: Mapping[str, str]) -> str:
    heartbeat: Heartbeat = request.heartbeat
    columns = sa.select(DataFlow.handler, DataFlow.configuration).where(DataFlow.name == name)
    with heartbeat.session() as session:
        row = session.execute(columns).one_or_none()
    if row is None:
        raise UnknownFlowError(name)
    handler, stored = map(readable, row)
    wanted = read_form(heartbeat, handler, stored or {}, given)
    operations.change(heartbeat, name, {WHOLE: wanted})
    return _path_of_flow(name, "saved")


def _save_and_run(request: Request, name: str, given: Mapping[str, str]) -> str:
    _save(request, name, given)
    return _run(request, name, given)


OF_ONE: dict[str, Callable[[Request, str, Mapping[str, str]], str]] = {
    "pause": _pause,
    "resume": _resume,
    "run": _run,
    "backfill": _backfill,
    "save": _save,
    "save-and-run": _save_and_run,
}


def _pause_many(request: Request, ids: list[int], given: Mapping[str, str]) -> Outcome:
    is_everything = given.get("which") == "all" and not (given.get("q") or given.get("state"))
    reason = pause_reason(request, given)
    if is_everything:
        return pause_everything(request.heartbeat, reason)
    return pause_flows(request.heartbeat, ids, reason)


OF_MANY: dict[str, Callable[[Request, list[int], Mapping[str, str]], Outcome]] = {
    "pause-many": _pause_many,
    "resume-many": lambda request, ids, _given: resume_flows(request.heartbeat, ids),
    "run-many": lambda request, ids, _given: run_flows(request.heartbeat, ids),
    "run-failed": lambda request, ids, _given: run_flows(request.heartbeat, ids),
    "resume-everything": lambda request, _ids, _given: resume_everything(request.heartbeat),
}


def _act_on_many(request: Request, given: Mapping[str, str]) -> Response:
    """Change the flows that are chosen, or all that the filters of the page select."""
    todo = given["do"]
    ids = _chosen(request, given)
    outcome = OF_MANY[todo](request, ids, given)
    query: dict[str, Any] = {"did": f"{todo}.{outcome.changed}.{outcome.left_out}"}
    if todo == "run-failed":
        return see_other(f"{prefix_of(request)}/runs?" + urlencode({"by": "error", **query}))
    filters = {key: given[key] for key in ("q", "state") if given.get(key)}
    return see_other(f"{prefix_of(request)}/flows?" + urlencode({**filters, **query}))


def _chosen(request: Request, given: Mapping[str, str]) -> list[int]:
    heartbeat: Heartbeat = request.heartbeat
    with heartbeat.session() as session:
        if given["do"] == "run-failed":
            # Here, since `history` may be deleted; the form is on its page.
            from .runs import flows_failing_with

            return flows_failing_with(session, given.get("error_type", "").replace("\0", ""))
        if given.get("which") == "all":
            return flow_ids(heartbeat, session, given.get("q", ""), given.get("state", ""))
        names = [str(name).replace("\0", "") for name in request.POST.getall("name")]
        return [*session.scalars(sa.select(DataFlow.id).where(DataFlow.name.in_(names)))]
