"""The heartbeat: an external scheduler sends a POST request, and the data flows that are due run.

`config.include(".heartbeat")` is all that an application needs. It adds `config.add_flow`,
`request.heartbeat` and the routes below `heartbeat.path`; it sets no session factory, no security
policy, no CSRF default and no `tm.*` setting of the application.
"""

import logging
from importlib import import_module
from importlib.resources import files
from types import ModuleType

# First, so that it reports a package that is missing.
from . import startup as startup  # isort: split

from pyramid.config import Configurator

from .core import Heartbeat, make_heartbeat
from .db import database_url, make_engine
from .db.types import UTCDateTime
from .registry import add_flow, flow
from .routes import require_same_place
from .run import Run, Window
from .security.policy import HeartbeatSecurityPolicy
from .settings import read_settings

__all__ = [
    "Heartbeat",
    "HeartbeatSecurityPolicy",
    "Run",
    "UTCDateTime",
    "Window",
    "database_url",
    "flow",
    "includeme",
    "make_engine",
]

# Any line can be deleted, together with its module or package in `optional/`.
OPTIONAL = [
    "throttle",  # limits refused attempts
    "toolbar",  # keeps tokens out of pyramid_debugtoolbar
    "pruning",  # removes old history
    "timeouts",  # the option `timeout` of flows
    "conditions",  # the options `after` and `when` of flows
    "operate",  # routes and commands for operators
    "backfill",  # runs for a period of the past
    "checks",  # `heartbeat check`
    "tokens",  # `heartbeat token`
]

log = logging.getLogger(__name__)
VERSION = files(__package__).joinpath("VERSION").read_text().strip()


def includeme(config: Configurator) -> None:
    """Wire the heartbeat into an application; a second call changes nothing.

    Raises SettingsError with all problems at once, and InclusionError for a second place.
    """
    if "heartbeat" in config.registry:
        require_same_place(config)
        return
    settings, url = read_settings(config.registry.settings)
    config.registry["heartbeat"] = make_heartbeat(settings, url)
    config.registry["heartbeat.declared"] = {}
    config.add_directive("add_flow", add_flow)
    if not settings.require_token:
        log.warning("beats need no token: heartbeat.require_token is false")
    config.include(".views.guard")
    config.include(".views.beat")
    for module in optional_modules():
        if hasattr(module, "includeme"):
            config.include(module)
    # Last: the route that matches all other paths, and a check of all routes.
    config.include(".views.beat.include_unknown")
    config.include(".routes")


def optional_modules() -> list[ModuleType]:
    """Import the optional modules and return them, in order."""
    return [import_module(f".optional.{name}", __package__) for name in OPTIONAL]
