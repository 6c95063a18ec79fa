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
from pyramid.httpexceptions import HTTPException
from pyramid.interfaces import ISecurityPolicy
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import Allowed, Denied
from sqlalchemy.exc import DBAPIError

from ..core import Heartbeat
from ..errors import DatabaseNotReadyError
from ..migrations import require_current
from ..redaction import describe_error, redact
from ..settings import Settings
from ..views.problems import problem
from .addresses import Address, client_address, is_within
from .token import Token, presented_token

log = logging.getLogger(__name__)

LARGEST_BODY = 64 * 1024
RETRY_AFTER_SECONDS = "30"
BEAT, OPERATE = "heartbeat.beat", "heartbeat.operate"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# A secret in a URL ends up in the logs of every proxy on the way. No call needs this many fields.
MOST_QUERY_FIELDS = 50
QUERY_NAMES = frozenset(
    {"token", "access_token", "api_key", "heartbeat_token", "x-heartbeat-token"}
)

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
        caller = self.identity(request)
        return (caller.token_name or caller.permission) if caller else None

    def permits(self, request: Request, _context: object, permission: str) -> Allowed | Denied:
        """Tell whether the caller has a permission of the engine's."""
        caller = self.identity(request)
        held = caller.permission if caller else None
        if held == OPERATE and permission in {BEAT, OPERATE}:
            return Allowed("operator")
        if held == permission == BEAT:
            return Allowed("scheduler")
        return Denied("no valid token")

    def remember(
        self, _request: Request, _userid: str, **_options: object
    ) -> list[tuple[str, str]]:
        """Return no headers: a token is sent with each call."""
        return []

    def forget(self, _request: Request, **_options: object) -> list[tuple[str, str]]:
        """Return no headers: there is nothing to forget."""
        return []


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
            refusal = refuse(request, permission, methods)
            return refusal or view(context, request)
        except Exception as error:  # noqa: BLE001 - the caller gets a problem, whatever happened
            return _fault(request.heartbeat, error)

    return guarded


# Pyramid reads which options of add_view are the deriver's.
guarded_view.options = ("heartbeat_permission", "heartbeat_methods")  # type: ignore[attr-defined]


def identify(request: Request) -> Caller:
    """Return who calls: from what address, and with which token."""
    heartbeat = request.heartbeat
    address = client_address(
        request.environ.get("REMOTE_ADDR"),
        request.environ.get("HTTP_X_FORWARDED_FOR"),
        heartbeat.settings.trusted_proxies or (),
    )
    presented = presented_token(
        request.environ.get("HTTP_AUTHORIZATION"), request.environ.get("HTTP_X_HEARTBEAT_TOKEN")
    )
    if not _token_in_query(request, heartbeat) and presented is not None:
        # A secret that stands in both files, by mistake, may do the lesser of the two.
        for permission, tokens in ((BEAT, heartbeat.tokens), (OPERATE, heartbeat.operator_tokens)):
            token: Token | None = tokens.match(presented)
            if token is not None:
                return Caller(address, permission, token.name)
    return Caller(address)


def refuse(request: Request, permission: str, methods: tuple[str, ...]) -> Response | None:
    """Return the refusal of a request, or None if it may pass. The order is the contract's."""
    heartbeat: Heartbeat = request.heartbeat
    settings = heartbeat.settings
    if permission == BEAT and methods and settings.allow_get:
        methods = (*methods, "GET")
    caller = identify(request)
    request.environ["heartbeat.caller"] = caller
    refusal = (
        _refuse_method(request, methods)
        or _refuse_address(caller, settings)
        or _refuse_token(request, caller, permission)
        or _refuse_body(request)
    )
    if refusal is not None:
        log.warning("refused a call from %s: %s", caller.source, refusal.status)
    return refusal


def _refuse_method(request: Request, methods: tuple[str, ...]) -> Response | None:
    if not methods or request.method in methods:
        return None
    allowed = ", ".join(methods)
    return problem(HTTPStatus.METHOD_NOT_ALLOWED, f"use {allowed}", headers={"Allow": allowed})


def _refuse_address(caller: Caller, settings: Settings) -> Response | None:
    if caller.address is None:
        refused = settings.allowed_ips is not None or settings.trusted_proxies is not None
    else:
        refused = settings.allowed_ips is not None and not is_within(
            caller.address, settings.allowed_ips
        )
    if not refused:
        return None
    return problem(HTTPStatus.FORBIDDEN, "calls from this address are not allowed")


def _refuse_token(request: Request, caller: Caller, permission: str) -> Response | None:
    heartbeat: Heartbeat = request.heartbeat
    if _may(request, caller, permission):
        return None
    if not (heartbeat.tokens.all() or heartbeat.operator_tokens.all()):
        return problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "no token is set up: put one into heartbeat.token_file, or run `make setup`",
            headers={"Retry-After": RETRY_AFTER_SECONDS},
        )
    if caller.permission is not None:
        return problem(HTTPStatus.FORBIDDEN, "the scheduler's token may only beat")
    throttle = request.registry.get("heartbeat.throttle")
    seconds = throttle(str(caller.address)) if throttle else None
    if seconds:
        return problem(
            HTTPStatus.TOO_MANY_REQUESTS,
            "too many calls without a valid token",
            headers={"Retry-After": str(seconds)},
        )
    return problem(
        HTTPStatus.UNAUTHORIZED,
        "send a valid token in the header `Authorization: Bearer TOKEN`, and never in the URL",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _may(request: Request, caller: Caller, permission: str) -> bool:
    """Tell whether the caller may: by its token, or as an operator by the application's policy."""
    if caller.permission == OPERATE or (caller.permission == permission == BEAT):
        return True
    if permission == BEAT:  # which no cookie can ever authorise
        return not request.heartbeat.settings.require_token
    if request.registry.queryUtility(ISecurityPolicy) is None:
        return False
    if not request.has_permission(OPERATE):
        return False
    if request.method not in SAFE_METHODS:
        # What authorised this may be a cookie, which a browser sends for any site that asks.
        check_csrf_origin(request)
        check_csrf_token(request)
    return True


def _refuse_body(request: Request) -> Response | None:
    """Refuse what is too large: by what it says of itself, else by reading no more than that."""
    too_large = (request.content_length or 0) > LARGEST_BODY
    body = b"" if too_large else request.body_file_raw.read(LARGEST_BODY + 1)
    if too_large or len(body) > LARGEST_BODY:
        return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body may have 64 KiB at most")
    request.body = body  # put back for the view: a server gives it once
    return None


def _token_in_query(request: Request, heartbeat: Heartbeat) -> bool:
    query = request.environ.get("QUERY_STRING", "")
    try:
        # Decoded as headers are: each byte is one character.
        fields = parse_qsl(
            query, keep_blank_values=True, encoding="latin-1", max_num_fields=MOST_QUERY_FIELDS
        )
    except ValueError:
        return True
    for name, value in fields:
        known = heartbeat.tokens.match(value) or heartbeat.operator_tokens.match(value)
        if known or name.strip().lower() in QUERY_NAMES:
            log.warning("a call has a token in its URL, where proxies log it: replace that token")
            return True
    return False


def _fault(heartbeat: Heartbeat, error: Exception) -> Response:
    """Return 503 where the database is the cause, with what to do, else 500."""
    if isinstance(error, HTTPException):
        return problem(HTTPStatus(error.code), redact(error.detail or error.explanation or ""))
    if isinstance(error, DBAPIError):
        try:
            require_current(heartbeat.engine)
        except (DatabaseNotReadyError, DBAPIError) as cause:
            error = cause
        else:
            if error.connection_invalidated:
                error = DatabaseNotReadyError("the database broke the connection off: call again")
    if isinstance(error, DatabaseNotReadyError):
        detail = redact(str(error), heartbeat.secrets())
        log.error("the heartbeat cannot work: %s", detail)
        return problem(
            HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": RETRY_AFTER_SECONDS}
        )
    # Not as exc_info: a traceback's own text may hold a secret.
    told = describe_error(error, heartbeat.secrets())
    log.error("the heartbeat failed\n%s", told["error_backtrace"])
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        f"an unexpected {told['error_type']}: the application's log says more",
    )
