"""Refusals of requests to the engine's views, in the order of the contract."""

import hmac
import logging
from http import HTTPStatus

from pyramid.csrf import check_csrf_origin, check_csrf_token
from pyramid.httpexceptions import HTTPException, exception_response
from pyramid.interfaces import IRootFactory, ISecurityPolicy
from pyramid.request import Request
from pyramid.response import Response

from ..core import Heartbeat
from ..routes import Root
from ..security.addresses import Address, is_within
from ..security.policy import BEAT, OPEN, OPERATE, PUBLIC, Caller, identify
from ..settings import Settings
from .problems import problem, unavailable

log = logging.getLogger(__name__)

LARGEST_BODY = 64 * 1024
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def refuse(request: Request, permission: str, methods: tuple[str, ...]) -> Response | None:
    """Return the refusal of a request, or None if it is accepted."""
    if permission == BEAT and methods and request.heartbeat.settings.allow_get:
        methods = (*methods, "GET")
    caller = request.environ["heartbeat.caller"] = identify(request)
    refusal = _refusal(request, caller, permission, methods)
    if refusal is not None:
        log_refusal(caller, refusal)
    return refusal


def log_refusal(caller: Caller, refusal: Response) -> None:
    """Log who was refused, and how, without the secret that was sent."""
    log.warning("refused a call from %s: %s", caller.source, refusal.status)


def _refusal(
    request: Request, caller: Caller, permission: str, methods: tuple[str, ...]
) -> Response | None:
    """Return the first refusal. Their order is part of the contract."""
    if methods and request.method not in methods:
        allowed = ", ".join(methods)
        return problem(HTTPStatus.METHOD_NOT_ALLOWED, f"use {allowed}", {"Allow": allowed})
    if permission != OPEN and not _is_allowed(caller.address, request.heartbeat.settings):
        return problem(HTTPStatus.FORBIDDEN, "calls from this address are not allowed")
    if not _may(request, caller, permission):
        return refuse_token(request, caller)
    return _refuse_body(request) or _refuse_forgery(request, caller, permission)


def _is_allowed(address: Address | None, settings: Settings) -> bool:
    if address is None:
        return settings.allowed_ips is None and settings.trusted_proxies is None
    return settings.allowed_ips is None or is_within(address, settings.allowed_ips)


def refuse_token(request: Request, caller: Caller) -> Response:
    """Refuse a caller without a valid token, and count the attempt."""
    heartbeat: Heartbeat = request.heartbeat
    if not (heartbeat.tokens.all() or heartbeat.operator_tokens.all()):
        detail = "no token is set up: put one into heartbeat.token_file, or run `make setup`"
        return unavailable(detail)
    if caller.permission == BEAT:
        return problem(HTTPStatus.FORBIDDEN, "the scheduler's token may only beat")
    throttle = request.registry.get("heartbeat.throttle")
    if throttle and (seconds := throttle(caller.address)):
        detail = "too many calls without a valid token"
        return problem(HTTPStatus.TOO_MANY_REQUESTS, detail, {"Retry-After": str(seconds)})
    detail = "send a valid token in the header `Authorization: Bearer TOKEN`, and never in the URL"
    return problem(HTTPStatus.UNAUTHORIZED, detail, {"WWW-Authenticate": "Bearer"})


def _may(request: Request, caller: Caller, permission: str) -> bool:
    """Return whether the token permits it, or for operators the application's security policy."""
    if caller.may(permission):
        return True
    if permission == BEAT:  # a cookie never authorises a beat
        return not request.heartbeat.settings.require_token
    if not _policy_permits(request):
        return False
    if request.method not in SAFE_METHODS:
        # A cookie may have authorised this, and a browser sends it with requests of any site.
        _check_csrf(request)
    return True


def _policy_permits(request: Request) -> bool:
    """Return whether the application's policy permits operating, in its own root context."""
    if request.registry.queryUtility(ISecurityPolicy) is None:
        return False
    root_factory = request.registry.queryUtility(IRootFactory, default=Root)
    try:
        return bool(request.has_permission(OPERATE, root_factory(request)))
    except HTTPException:  # some policies redirect to a login page
        return False


def _check_csrf(request: Request) -> None:
    check_csrf_origin(request)
    try:
        check_csrf_token(request)
    except AttributeError as error:
        if hasattr(request, "session"):
            raise
        detail = (
            "this application has no session factory and no CSRF storage policy, so it accepts "
            "no changes from a browser: send the operators' token in a header"
        )
        raise exception_response(403, detail=detail) from error


def require_readable(request: Request) -> None:
    """Raise 400 for a query or a form that is not UTF-8, or cannot be parsed."""
    try:
        _ = request.GET.keys(), request.POST.keys()
    except (ValueError, DeprecationWarning) as error:  # the latter for another `charset`
        raise exception_response(400, detail="the query or the form is not UTF-8") from error


def _refuse_forgery(request: Request, caller: Caller, permission: str) -> Response | None:
    """Refuse what a session asks for without its CSRF token: another site may have sent it."""
    if caller.csrf_token is None or request.method in SAFE_METHODS or permission == PUBLIC:
        return None
    require_readable(request)
    sent = request.headers.get("X-CSRF-Token") or str(request.POST.get("csrf_token", ""))
    if hmac.compare_digest(sent.encode(), caller.csrf_token.encode()):
        return None
    detail = "the CSRF token is missing or invalid: load the page again, and repeat the action"
    return problem(HTTPStatus.FORBIDDEN, detail)


def _refuse_body(request: Request) -> Response | None:
    """Refuse a body that is too large by its length, or after reading up to the limit."""
    too_large = (request.content_length or 0) > LARGEST_BODY
    try:
        body = b"" if too_large else request.body_file_raw.read(LARGEST_BODY + 1)
    except Exception:  # noqa: BLE001 - each server has its own errors for invalid chunks
        return problem(HTTPStatus.BAD_REQUEST, "the body cannot be read")
    if too_large or len(body) > LARGEST_BODY:
        return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is larger than 64 KiB")
    request.body = body  # for the view, since the body can be read once
    return None
