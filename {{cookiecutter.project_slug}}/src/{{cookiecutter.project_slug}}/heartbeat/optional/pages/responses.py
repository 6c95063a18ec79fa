"""The headers of replies, and what kind of reply a caller prefers."""

from collections.abc import Callable
from functools import wraps

from pyramid.events import NewRequest, NewResponse
from pyramid.request import Request
from pyramid.response import Response

from ...errors import DatabaseBusyError, DataFlowError
from ...routes import is_below
from ...runs.register import register
from ...security.addresses import is_within, parse_address
from ...views.refusals import require_readable
from ...views.resources import error_reply

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer": browsers would send forms with `Origin: null`, which CSRF checks refuse.
    "Referrer-Policy": "same-origin",
}


def add_security_headers(event: NewResponse) -> None:
    """Add the headers to replies below the path. The host's own pages are not affected."""
    if is_below(event.request):
        for name, value in SECURITY_HEADERS.items():
            event.response.headers.setdefault(name, value)


def trust_scheme(event: NewRequest) -> None:
    """Take the scheme of a request below the path from a trusted proxy, where HTTPS may end.

    Cookies are sent over HTTPS alone then, and redirects stay there.
    """
    request = event.request
    proxy = parse_address(request.remote_addr or "")
    is_trusted = proxy and is_within(proxy, request.heartbeat.settings.trusted_proxies or ())
    is_https = request.headers.get("X-Forwarded-Proto", "").lower() == "https"
    if is_trusted and is_https and is_below(request):
        request.scheme = "https"


def prefers_html(request: Request) -> bool:
    """Return whether a caller accepts HTML more readily than JSON, as browsers do."""
    offers = request.accept.acceptable_offers(["application/json", "text/html"])
    return bool(offers) and offers[0][0] == "text/html"


def answered(view: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """Return a view that registers the flows first, and replies to an operator's errors."""

    @wraps(view)
    def answer(request: Request) -> Response:
        require_readable(request)
        register(request.heartbeat)
        try:
            return view(request)
        except DatabaseBusyError:
            raise
        except DataFlowError as error:
            return error_reply(error)

    return answer
