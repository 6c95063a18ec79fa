"""The home page: what this application is, and where to go from here; the headers of all pages.

Anybody who reaches it may read it, so it shows no data, no secrets and no names of flows.
"""

import re
from typing import Any

from pyramid.config import Configurator
from pyramid.events import NewResponse
from pyramid.exceptions import URLDecodeError
from pyramid.httpexceptions import HTTPBadRequest
from pyramid.request import Request
from pyramid.security import NO_PERMISSION_REQUIRED

PACKAGE = __name__.partition(".")[0]
LOCAL_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?")

# Browsers then run no script, use no style and show no frame that is not from this application.
# Loosen them here where your own pages need more.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
}


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
        "pages_path": f"{request.script_name}{request.heartbeat.settings.path}/today",
        "static": request.static_path(f"{PACKAGE}:static/"),
    }


def malformed(_error: URLDecodeError, _request: Request) -> HTTPBadRequest:
    """Refuse a path that is not UTF-8, for which Pyramid itself has no answer."""
    return HTTPBadRequest("the path is not UTF-8")


def add_security_headers(event: NewResponse) -> None:
    """Add the headers that a view has not set itself, except to the debug toolbar's own pages."""
    if event.request.environ.get("PATH_INFO", "").startswith("/_debug_toolbar/"):
        return
    for name, value in SECURITY_HEADERS.items():
        event.response.headers.setdefault(name, value)


def includeme(config: Configurator) -> None:
    """Serve the home page at `/`, and its static files."""
    config.add_subscriber(add_security_headers, NewResponse)
    config.add_exception_view(malformed, context=URLDecodeError)
    config.include("pyramid_jinja2")
    config.add_static_view("static", "static", cache_max_age=3600)
    config.add_route("home", "/")
    config.add_view(
        home,
        route_name="home",
        renderer="templates/home.jinja2",
        request_method="GET",
        permission=NO_PERMISSION_REQUIRED,
    )
