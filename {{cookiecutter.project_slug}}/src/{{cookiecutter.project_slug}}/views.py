"""The home page: what this application is, and where to go from here.

Anybody who reaches it may read it, so it shows no data, no secrets and no names of flows.
"""

import re
from typing import Any

from pyramid.config import Configurator
from pyramid.exceptions import URLDecodeError
from pyramid.httpexceptions import HTTPBadRequest
from pyramid.request import Request
from pyramid.security import NO_PERMISSION_REQUIRED

PACKAGE = __name__.partition(".")[0]
LOCAL_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?")


def home(request: Request) -> dict[str, Any]:
    """Show the home page."""
    # The page has a command with a token in it, which must not go wherever a header says.
    if not LOCAL_HOST.fullmatch(request.host):
        port = request.environ["SERVER_PORT"]
        request.host = f"localhost:{port}" if port.isdecimal() else "localhost"
    return {
        "title": request.registry.settings.get("project.name", "Data flows"),
        "heartbeat_url": request.application_url + request.heartbeat.settings.path,
        "package": PACKAGE,
    }


def malformed(_error: URLDecodeError, _request: Request) -> HTTPBadRequest:
    """Refuse a path that is not UTF-8, for which Pyramid itself has no answer."""
    return HTTPBadRequest("the path is not UTF-8")


def includeme(config: Configurator) -> None:
    """Serve the home page at `/`."""
    config.add_exception_view(malformed, context=URLDecodeError)
    config.include("pyramid_jinja2")
    config.add_route("home", "/")
    config.add_view(
        home,
        route_name="home",
        renderer="templates/home.jinja2",
        request_method="GET",
        permission=NO_PERMISSION_REQUIRED,
    )
