"""The guard of the engine's views: it refuses requests, and turns errors into replies.

It is a view deriver, so that it works in any application: without a security policy, a permission
alone would be open to all, and a default permission would exclude the scheduler.
"""

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPException
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED
from sqlalchemy.exc import DBAPIError

from ..core import Heartbeat
from ..db import is_silent, is_unavailable, reason
from ..errors import DatabaseBusyError, DatabaseNotReadyError
from ..migrations import require_current
from ..redaction import describe_error, redact
from ..routes import Root
from ..tracebacks import is_a
from .operation import DescribedRoute, Operation
from .problems import PROBLEM, problem, unavailable
from .refusals import refuse

log = logging.getLogger(__name__)

View = Callable[..., Response]


def includeme(config: Configurator) -> None:
    """Add the deriver, which guards the views that have the option `heartbeat_permission`."""
    config.add_view_deriver(guarded_view, name="heartbeat_guard")


def add_guarded_view(
    config: Configurator,
    view: View,
    pattern: str,
    permission: str,
    methods: tuple[str, ...],
    *,
    operations: Mapping[str, Operation] | None = None,
) -> None:
    """Add a route below the path, and its view, which has the name of the route.

    permission: BEAT or OPERATE. methods: those that the view answers to; none stands for any.
    operations: descriptions for `registry["heartbeat.routes"]`, by method.
    """
    if operations:
        described = DescribedRoute(view.__name__, pattern, permission, operations)
        config.registry.setdefault("heartbeat.routes", []).append(described)
    path = config.registry["heartbeat"].settings.path
    config.add_route(f"heartbeat.{view.__name__}", path + pattern, factory=Root)
    add_view_of_route(config, view, permission, methods)


def add_view_of_route(
    config: Configurator,
    view: View,
    permission: str,
    methods: tuple[str, ...],
    **predicates: object,
) -> None:
    """Add another view to the route that has its name, for requests that fulfil `predicates`."""
    config.add_view(
        view,
        route_name=f"heartbeat.{view.__name__}",
        permission=NO_PERMISSION_REQUIRED,
        require_csrf=False,
        heartbeat_permission=permission,
        heartbeat_methods=methods,
        **predicates,
    )


def guarded_view(view: View, info: Any) -> View:
    """Restrict a view of the engine to authorised callers, and turn its errors into replies."""
    permission: str | None = info.options.get("heartbeat_permission")
    methods: tuple[str, ...] = info.options.get("heartbeat_methods", ("GET",))
    if permission is None:
        return view

    def guarded(context: Any, request: Request) -> Response:
        try:
            reply = refuse(request, permission, methods) or view(context, request)
        except Exception as error:  # noqa: BLE001 - the caller gets a reply to any error
            reply = _error_reply(request.heartbeat, error)
        # Set by optional/pages: shows a browser the error as a page.
        problem_page = request.registry.get("heartbeat.problem_page")
        if problem_page and reply.content_type == PROBLEM:
            return problem_page(request, reply)
        return reply

    return guarded


# Pyramid reads the names of the deriver's options from here.
guarded_view.options = ("heartbeat_permission", "heartbeat_methods")  # type: ignore[attr-defined]


def _error_reply(heartbeat: Heartbeat, error: Exception) -> Response:
    """Return 503 with the solution if the database is the cause, else 500."""
    if is_a(error, HTTPException):
        return problem(HTTPStatus(error.code), redact(error.detail or error.explanation or ""))
    if is_unavailable(error):
        error = _cause(heartbeat, error)
    if is_a(error, DatabaseNotReadyError) or is_a(error, DatabaseBusyError):
        detail = redact(str(error), heartbeat.secrets())
        heartbeat.repeats.log(log, logging.ERROR, "the heartbeat cannot work: %s", detail)
        return unavailable(detail)
    # Not as exc_info: the text of a traceback may contain a secret.
    details = describe_error(error, heartbeat.secrets())
    backtrace = details["error_backtrace"]
    heartbeat.repeats.log(log, logging.ERROR, "the heartbeat failed: %s", backtrace)
    detail = f"an unexpected {details['error_type']}: the application's log has the details"
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail)


def _cause(heartbeat: Heartbeat, error: Exception) -> Exception:
    """Return why the database cannot be used, and the solution, as far as they can be found."""
    try:
        if not is_silent(error):
            require_current(heartbeat.engine)
    except DatabaseNotReadyError as cause:
        return cause
    except DBAPIError as cause:
        error = cause
    message = reason(error) if isinstance(error, DBAPIError) else str(error)
    return DatabaseNotReadyError(f"the database failed ({message}): call again")
