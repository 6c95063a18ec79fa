"""The guard of the engine's views: it refuses a request, or turns an error into a reply.

It is a view deriver, so that it holds in any application: a permission alone would stand open in
one without a security policy, and a default permission would shut the scheduler out.
"""

import logging
from collections.abc import Callable
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
from .problems import problem, unavailable
from .refusals import refuse

log = logging.getLogger(__name__)

View = Callable[..., Response]


def includeme(config: Configurator) -> None:
    """Add the deriver, which guards the views that have the option `heartbeat_permission`."""
    config.add_view_deriver(guarded_view, name="heartbeat_guard")


def add_guarded_view(
    config: Configurator, view: View, pattern: str, permission: str, methods: tuple[str, ...]
) -> None:
    """Add a route below the path, and its view, which has the name of the route.

    permission: BEAT or OPERATE. methods: those that the view answers to; none stands for any.
    """
    route = f"heartbeat.{view.__name__}"
    path = config.registry["heartbeat"].settings.path
    config.add_route(route, path + pattern, factory=Root)
    config.add_view(
        view,
        route_name=route,
        permission=NO_PERMISSION_REQUIRED,
        require_csrf=False,
        heartbeat_permission=permission,
        heartbeat_methods=methods,
    )


def guarded_view(view: View, info: Any) -> View:
    """Restrict a view of the engine to authorised callers, and turn its errors into replies."""
    permission: str | None = info.options.get("heartbeat_permission")
    methods: tuple[str, ...] = info.options.get("heartbeat_methods", ("GET",))
    if permission is None:
        return view

    def guarded(context: Any, request: Request) -> Response:
        try:
            return refuse(request, permission, methods) or view(context, request)
        except Exception as error:  # noqa: BLE001 - the caller gets a problem, whatever happened
            return _fault(request.heartbeat, error)

    return guarded


# Pyramid reads which options of add_view are the deriver's.
guarded_view.options = ("heartbeat_permission", "heartbeat_methods")  # type: ignore[attr-defined]


def _fault(heartbeat: Heartbeat, error: Exception) -> Response:
    """Return 503 where the database is the cause, with what to do, else 500."""
    if is_a(error, HTTPException):
        return problem(HTTPStatus(error.code), redact(error.detail or error.explanation or ""))
    if is_unavailable(error):
        error = _cause(heartbeat, error)
    if is_a(error, DatabaseNotReadyError) or is_a(error, DatabaseBusyError):
        detail = redact(str(error), heartbeat.secrets())
        log.error("the heartbeat cannot work: %s", detail)
        return unavailable(detail)
    # Not as exc_info: a traceback's own text may hold a secret.
    details = describe_error(error, heartbeat.secrets())
    log.error("the heartbeat failed\n%s", details["error_backtrace"])
    detail = f"an unexpected {details['error_type']}: the application's log says more"
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail)


def _cause(heartbeat: Heartbeat, error: Exception) -> Exception:
    """Return why the database cannot be used, with what to do, as far as that can be found out."""
    try:
        if not is_silent(error):
            require_current(heartbeat.engine)
    except DatabaseNotReadyError as cause:
        return cause
    except DBAPIError as cause:
        error = cause
    said = reason(error) if isinstance(error, DBAPIError) else str(error)
    return DatabaseNotReadyError(f"the database failed ({said}): call again")
