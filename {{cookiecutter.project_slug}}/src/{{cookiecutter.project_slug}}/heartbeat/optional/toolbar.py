"""Optional: keeps tokens out of pyramid_debugtoolbar, which records and shows requests."""

import re
import sys
from typing import Any

from pyramid.config import PHASE3_CONFIG, Configurator
from pyramid.request import Request

from ..security.policy import identify


def includeme(config: Configurator) -> None:
    """Stop the toolbar from recording calls of the engine, and requests with a valid token."""
    # Late: the toolbar may be included after the engine, and the host may restrict it as well.
    config.action("heartbeat.toolbar", restrict, (config.registry,), order=PHASE3_CONFIG + 1)


def restrict(registry: Any) -> None:
    """Add our condition to the one under which the toolbar records a request."""
    toolbar: Any = sys.modules.get("pyramid_debugtoolbar.toolbar")
    if toolbar is None:
        return
    host_condition = registry.queryUtility(toolbar.IRequestAuthorization)

    def may_record(request: Request) -> bool:
        if is_ours(request):
            return False
        return host_condition is None or bool(host_condition(request))

    registry.registerUtility(may_record, toolbar.IRequestAuthorization)


def is_ours(request: Request) -> bool:
    """Return whether a request is below the heartbeat's path, or has a valid token."""
    path = re.sub("/+", "/", request.environ.get("PATH_INFO", ""))
    below = path.startswith(request.registry["heartbeat"].settings.path)
    return below or identify(request).permission is not None
