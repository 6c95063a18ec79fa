"""The heartbeat: an external scheduler sends a POST request, and the data flows that are due run.

`config.include(".heartbeat")` is all that an application needs. It adds `config.add_flow`,
`request.heartbeat` and the routes below `heartbeat.path`; it sets no session factory, no security
policy, no CSRF default and no `tm.*` setting of the application.
"""

import logging
from importlib import import_module
from types import ModuleType

# First, so that it reports a package that is missing.
from . import startup as startup  # isort: split

from pyramid.config import Configurator

from .core import Heartbeat, make_heartbeat
from .db import database_url, make_engine
from .db.types import UTCDateTime
from .errors import SettingsError
from .log_lines import VERSION as VERSION
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
    "alarms",  # events about flows, and the options of flows for alarms
    "webhooks",  # pings, the webhook, and the option `ping_url`; imports from alarms
    "operate",  # routes and commands that change and run flows
    "history",  # lists of runs and beats, and the rhythm of schedulers
    "pages",  # the same resources as pages for a browser; imports from operate and history
    "openapi",  # the description of the routes at /openapi.json
    "health",  # routes for probes and uptime monitors
    "metrics",  # metrics for Prometheus
    "rehearse",  # runs that are rolled back
    "backfill",  # runs for a period of the past
    "plan",  # `heartbeat plan`
    "checks",  # `heartbeat check`
    "tokens",  # `heartbeat token`
    "scheduler",  # `heartbeat beat --every`
    "new",  # `heartbeat new`
    "celery",  # the executor celery, and the option `queue` of flows
]

log = logging.getLogger(__name__)


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
    if settings.executor == "celery" and config.registry["heartbeat"].hand_over is None:
        raise SettingsError(
            "heartbeat.executor is 'celery', which needs the optional module optional/celery and "
            "its line in __init__.py: restore both, or set it to local"
        )
    # Last: the route that matches all other paths, and a check of all routes.
    config.include(".views.beat.include_unknown")
    config.include(".routes")


def optional_modules() -> list[ModuleType]:
    """Import the optional modules and return them, in order."""
    return [import_module(f".optional.{name}", __package__) for name in OPTIONAL]
