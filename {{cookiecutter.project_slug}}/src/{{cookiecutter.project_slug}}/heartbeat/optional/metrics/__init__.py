"""Optional: `GET /metrics` for Prometheus, with a dashboard for Grafana and rules for alerts.

The figures are read from the database at each scrape, so that all processes serve the same ones.
`alerts.yml` and `dashboard.json` beside this file are to be loaded into Prometheus and Grafana.
"""

import logging
import re
from http import HTTPStatus
from importlib.util import find_spec

from pyramid.config import Configurator
from pyramid.httpexceptions import exception_response
from pyramid.request import Request
from pyramid.response import Response
from webob.acceptparse import create_accept_header

from ...core import Heartbeat
from ...runs.register import register
from ...security.policy import OPERATE
from ...views.guard import add_guarded_view
from ...views.operation import Operation
from ...views.problems import unavailable

# In the order of preference where a client accepts several equally.
FORMATS = ("text/plain;version=0.0.4", "application/openmetrics-text;version=1.0.0")
MISSING = "the package prometheus-client is not installed: run `pip install prometheus-client`"
# Prometheus 3 asks for an escaping of names. All names here are valid in any.
_ESCAPING = re.compile(r"\s*;\s*escaping=[^;,\s]*")

log = logging.getLogger(__name__)


def includeme(config: Configurator) -> None:
    """Add the route and its view, which reports a missing package."""
    heartbeat: Heartbeat = config.registry["heartbeat"]
    # By optional/health.py, too: from here on, the first beat is waited for.
    config.registry.setdefault("heartbeat.started_at", heartbeat.clock.now())
    if not _is_installed():
        log.warning("metrics are not served: %s", MISSING)
    described = Operation(
        summary="Report figures for Prometheus, read from the database at each call",
        replies={HTTPStatus.OK: None},
        text_replies=FORMATS,
        problems=frozenset({HTTPStatus.NOT_ACCEPTABLE}),
    )
    operations = {"GET": described}
    add_guarded_view(config, metrics, "/metrics", OPERATE, ("GET",), operations=operations)


def metrics(request: Request) -> Response:
    """Answer with the figures in one of FORMATS, as the header `Accept` demands."""
    if not _is_installed():
        return unavailable(MISSING)
    # Not at start, which it would slow down by a tenth.
    from .exposition import expose

    accepted = _format_of(request)
    register(request.heartbeat)
    text, content_type = expose(
        request.heartbeat, request.registry["heartbeat.started_at"], accepted
    )
    headers = [("Content-Type", content_type), ("Cache-Control", "no-store")]
    return Response(text, HTTPStatus.OK.value, headers)


def _is_installed() -> bool:
    return find_spec("prometheus_client") is not None


def _format_of(request: Request) -> str:
    """Return the one of FORMATS that the client prefers. Raises 406."""
    header = request.headers.get("Accept")
    accept = create_accept_header(_ESCAPING.sub("", header) if header else None)
    offers = accept.acceptable_offers(FORMATS)
    if not offers:
        detail = "only text/plain (version 0.0.4) and application/openmetrics-text are available"
        raise exception_response(406, detail=detail)
    return str(offers[0][0])
