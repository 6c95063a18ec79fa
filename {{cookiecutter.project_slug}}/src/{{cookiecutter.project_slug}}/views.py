"""The home page: what this application is, and where to go from here.

Anybody who reaches it may read it, so it shows no data, no secrets and no names of flows.
"""

from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.security import NO_PERMISSION_REQUIRED

PACKAGE = __name__.partition(".")[0]


def home(request: Request) -> dict[str, Any]:
    """Show the home page."""
    return {
        "title": request.registry.settings.get("project.name", "Data flows"),
        "heartbeat_url": request.application_url + request.heartbeat.settings.path,
        "package": PACKAGE,
    }


def includeme(config: Configurator) -> None:
    """Serve the home page at `/`."""
    config.include("pyramid_jinja2")
    config.add_route("home", "/")
    config.add_view(
        home,
        route_name="home",
        renderer="templates/home.jinja2",
        request_method="GET",
        permission=NO_PERMISSION_REQUIRED,
    )
