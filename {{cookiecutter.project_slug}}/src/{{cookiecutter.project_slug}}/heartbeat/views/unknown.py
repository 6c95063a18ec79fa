"""The views for unknown resources, and for paths that are not UTF-8."""

from http import HTTPStatus

from pyramid.config import Configurator
from pyramid.exceptions import URLDecodeError
from pyramid.request import Request
from pyramid.response import Response

from ..routes import is_below
from ..security.policy import BEAT
from .guard import add_guarded_view
from .problems import problem


def includeme(config: Configurator) -> None:
    """Add both views. Their route, the last one of the engine, matches all else below the path."""
    add_guarded_view(config, unknown, "/*rest", BEAT, ())
    config.add_view_predicate("below_heartbeat", _BelowPath)
    config.add_exception_view(
        malformed,
        context=URLDecodeError,
        below_heartbeat=True,
        heartbeat_permission=BEAT,
        heartbeat_methods=(),
    )


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
    """Answer authorised callers that there is no resource at this path."""
    return problem(HTTPStatus.NOT_FOUND, "there is no such resource")
