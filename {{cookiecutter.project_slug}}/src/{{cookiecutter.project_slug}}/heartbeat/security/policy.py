"""Who may call what: the guard of the engine's views, and the rendered application's policy.

The guard is a view deriver, so that it holds in any application: a permission alone would stand
open in one without a security policy, and a default permission would shut the scheduler out.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from pyramid.config import Configurator
from pyramid.csrf import check_csrf_origin, check_csrf_token
from pyramid.httpexceptions import HTTPException, exception_response
from pyramid.interfaces import IRootFactory, ISecurityPolicy
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import Allowed, Denied
from sqlalchemy.exc import DBAPIError

from ..core import Heartbeat
from ..db import is_silent, is_unavailable, reason
from ..errors import DatabaseBusyError, DatabaseNotReadyError
from ..migrations import require_current
from ..redaction import describe_error, redact
from ..routes import Root
from ..settings import Settings
from ..tracebacks import is_a
from ..views.problems import problem
from .addresses import Address, client_address, is_within
from .token import presented_token

log = logging.getLogger(__name__)

LARGEST_BODY = 64 * 1024
RETRY_AFTER_SECONDS = "30"
BEAT, OPERATE = "heartbeat.beat", "heartbeat.operate"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# A secret in a URL ends up in the logs of every proxy on the way.
QUERY_NAMES = {"token", "access_token", "api_key", "heartbeat_token", "x-heartbeat-token"}

View = Callable[[Any, Request], Response]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: an address, where it can be told, and the token, where one was sent."""

    address: Address | None
    permission: str | None = None
    token_name: str = ""

    @property
    def source(self) -> str:
        """How the caller is named in a beat's row."""
        return " ".join(word for word in (str(self.address or "unknown"), self.token_name) if word)

    def may(self, permission: str) -> bool:
        """Tell whether the token gives a permission; an operator's gives both."""
        return permission == self.permission or (permission, self.permission) == (BEAT, OPERATE)


class HeartbeatSecurityPolicy:
    """The policy of the rendered application: permissions follow from the token that is sent.

    The operator's token may do everything, the scheduler's may beat, and nobody else may do either.
    """

    def identity(self, request: Request) -> Caller | None:
        """Return who calls, if a valid token says so."""
        caller = identify(request)
        return caller if caller.permission else None

    def authenticated_userid(self, request: Request) -> str | None:
        """Return a name for who calls, if a valid token says so."""
        caller = identify(request)
        return caller.token_name or caller.permission

    def permits(self, request: Request, _context: object, permission: str) -> Allowed | Denied:
        """Tell whether the caller has a permission of the engine's."""
        may = identify(request).may(permission)
        return Allowed("a valid token") if may else Denied("no valid token")

    def forget(self, _request: Request, *_userid: str, **_options: object) -> list[tuple[str, str]]:
        """Return no headers: a token is sent with each call, and there is nothing to forget."""
        return []

    remember = forget


def includeme(config: Configurator) -> None:
    """Add the deriver; a view asks for it with `heartbeat_permission=BEAT`.

    `heartbeat_methods` are what it answers to; none stands for any.
    """
    config.add_view_deriver(guarded_view, name="heartbeat_guard")


def guarded_view(view: View, info: Any) -> View:
    """Let a view of the engine be reached by whom it is for alone, and turn faults to problems."""
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


def identify(request: Request) -> Caller:
    """Return who calls: from what address, and with which token."""
    heartbeat: Heartbeat = request.heartbeat
    headers, trusted = request.headers, heartbeat.settings.trusted_proxies or ()
    address = client_address(request.remote_addr, headers.get("X-Forwarded-For"), trusted)
    presented = presented_token(headers.get("Authorization"), headers.get("X-Heartbeat-Token"))
    if not _token_in_query(request, heartbeat) and presented is not None:
        # A secret that stands in both files, by mistake, may do the lesser of the two.
        for permission, tokens in ((BEAT, heartbeat.tokens), (OPERATE, heartbeat.operator_tokens)):
            if (token := tokens.match(presented)) is not None:
                return Caller(address, permission, token.name)
    return Caller(address)


def refuse(request: Request, permission: str, methods: tuple[str, ...]) -> Response | None:
    """Return the refusal of a request, or None if it may pass."""
    if permission == BEAT and methods and request.heartbeat.settings.allow_get:
        methods = (*methods, "GET")
    caller = request.environ["heartbeat.caller"] = identify(request)
    refusal = _refusal(request, caller, permission, methods)
    if refusal is not None:
        log.warning("refused a call from %s: %s", caller.source, refusal.status)
    return refusal


def _refusal(
    request: Request, caller: Caller, permission: str, methods: tuple[str, ...]
) -> Response | None:
    """Return the first refusal there is. Their order is the contract's."""
    if methods and request.method not in methods:
        allowed = ", ".join(methods)
        return problem(HTTPStatus.METHOD_NOT_ALLOWED, f"use {allowed}", {"Allow": allowed})
    if not _is_allowed(caller.address, request.heartbeat.settings):
        return problem(HTTPStatus.FORBIDDEN, "calls from this address are not allowed")
    if not _may(request, caller, permission):
        return _refuse_token(request, caller)
    return _refuse_body(request)


def _is_allowed(address: Address | None, settings: Settings) -> bool:
    if address is None:
        return settings.allowed_ips is None and settings.trusted_proxies is None
    return settings.allowed_ips is None or is_within(address, settings.allowed_ips)


def _refuse_token(request: Request, caller: Caller) -> Response:
    heartbeat: Heartbeat = request.heartbeat
    if not (heartbeat.tokens.all() or heartbeat.operator_tokens.all()):
        detail = "no token is set up: put one into heartbeat.token_file, or run `make setup`"
        return _unavailable(detail)
    if caller.permission is not None:
        return problem(HTTPStatus.FORBIDDEN, "the scheduler's token may only beat")
    throttle = request.registry.get("heartbeat.throttle")
    if throttle and (seconds := throttle(caller.address)):
        detail, headers = "too many calls without a valid token", {"Retry-After": str(seconds)}
        return problem(HTTPStatus.TOO_MANY_REQUESTS, detail, headers)
    detail = "send a valid token in the header `Authorization: Bearer TOKEN`, and never in the URL"
    return problem(HTTPStatus.UNAUTHORIZED, detail, {"WWW-Authenticate": "Bearer"})


def _may(request: Request, caller: Caller, permission: str) -> bool:
    """Tell whether the caller may: by its token, or as an operator by the application's policy."""
    if caller.may(permission):
        return True
    if permission == BEAT:  # which no cookie can ever authorise
        return not request.heartbeat.settings.require_token
    if not _policy_permits(request):
        return False
    if request.method not in SAFE_METHODS:
        # What authorised this may be a cookie, which a browser sends for any site that asks.
        _check_csrf(request)
    return True


def _policy_permits(request: Request) -> bool:
    """Ask the application's policy, about the root that its own views have."""
    if request.registry.queryUtility(ISecurityPolicy) is None:
        return False
    root_factory = request.registry.queryUtility(IRootFactory, default=Root)
    try:
        return bool(request.has_permission(OPERATE, root_factory(request)))
    except HTTPException:  # as some send strangers to a login page
        return False


def _check_csrf(request: Request) -> None:
    check_csrf_origin(request)
    try:
        check_csrf_token(request)
    except AttributeError as error:
        if hasattr(request, "session"):
            raise
        detail = (
            "this application has no session factory and no CSRF storage policy of its own, and so "
            "accepts no changes from a browser: send the operators' token in a header"
        )
        raise exception_response(403, detail=detail) from error


def _refuse_body(request: Request) -> Response | None:
    """Refuse what is too large: by what it says of itself, else by reading no more than that."""
    too_large = (request.content_length or 0) > LARGEST_BODY
    try:
        body = b"" if too_large else request.body_file_raw.read(LARGEST_BODY + 1)
    except Exception:  # noqa: BLE001 - each server has its own errors for chunks that are none
        return problem(HTTPStatus.BAD_REQUEST, "the body cannot be read")
    if too_large or len(body) > LARGEST_BODY:
        return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body may have 64 KiB at most")
    request.body = body  # put back for the view: a server gives it once
    return None


def _token_in_query(request: Request, heartbeat: Heartbeat) -> bool:
    query = request.environ.get("QUERY_STRING", "")
    try:
        # Decoded as headers are: each byte is one character. No call needs as many fields.
        fields = parse_qsl(query, keep_blank_values=True, encoding="latin-1", max_num_fields=50)
    except ValueError:
        return True
    for name, value in fields:
        known = any(
            tokens.match(text)
            for tokens in (heartbeat.tokens, heartbeat.operator_tokens)
            for text in (name, value)
        )
        if known or name.strip().lower() in QUERY_NAMES:
            log.warning("a call has a token in its URL, where proxies log it: replace that token")
            return True
    return False


def _fault(heartbeat: Heartbeat, error: Exception) -> Response:
    """Return 503 where the database is the cause, with what to do, else 500."""
    if is_a(error, HTTPException):
        return problem(HTTPStatus(error.code), redact(error.detail or error.explanation or ""))
    if is_unavailable(error):
        error = _cause(heartbeat, error)
    if is_a(error, DatabaseNotReadyError) or is_a(error, DatabaseBusyError):
        detail = redact(str(error), heartbeat.secrets())
        log.error("the heartbeat cannot work: %s", detail)
        return _unavailable(detail)
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


def _unavailable(detail: str) -> Response:
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, {"Retry-After": RETRY_AFTER_SECONDS})
