"""The views of the sign-in and the sign-out."""

import hmac
import re
import secrets
from http import HTTPStatus

from pyramid.request import Request
from pyramid.response import Response

from ...security.policy import OPERATE, caller_with
from ...views.refusals import log_refusal, refuse_token, require_readable
from .rendering import page
from .sessions import (
    as_in_header,
    end_session,
    open_session,
    prefix_of,
    read_cookie,
    see_other,
    set_cookie,
)

FORM_COOKIE = "heartbeat_sign_in"


def sign_in(request: Request) -> Response:
    """Show the form of the sign-in, or open a session for an operator's token."""
    require_readable(request)
    if request.method == "GET":
        return _form(request)
    sent = str(request.POST.get("csrf_token", ""))
    expected = read_cookie(request, FORM_COOKIE)
    if not expected or not hmac.compare_digest(sent.encode(), expected.encode()):
        return _form(request, HTTPStatus.FORBIDDEN, "the form was out of date: send it again")
    presented = as_in_header(str(request.POST.get("token", "")).strip())
    heartbeat = request.heartbeat
    caller = caller_with(heartbeat, request.environ["heartbeat.caller"].address, presented)
    if not caller.may(OPERATE):
        refusal = refuse_token(request, caller)
        log_refusal(caller, refusal)
        detail = refusal.json["detail"]
        if refusal.status_int == HTTPStatus.UNAUTHORIZED:
            detail = "this is not a valid token of an operator"
        shown = _form(request, refusal.status_int, detail)
        for name in {"Retry-After", "WWW-Authenticate"} & set(refusal.headers):
            shown.headers[name] = refusal.headers[name]
        return shown
    response = see_other(_target(request))
    open_session(request, response, presented)
    return response


def sign_out(request: Request) -> Response:
    """End the session of this browser."""
    response = see_other(f"{prefix_of(request)}/sign-in")
    end_session(request, response)
    return response


def _form(request: Request, status: int = HTTPStatus.OK, detail: str = "") -> Response:
    csrf_token = read_cookie(request, FORM_COOKIE)
    if not re.fullmatch(r"[\w-]{43}", csrf_token, re.ASCII):
        csrf_token = secrets.token_urlsafe(32)
    values = {"csrf_token": csrf_token, "next": _target(request), "detail": detail}
    response = page(request, "sign_in.jinja2", status, active="", **values)
    set_cookie(request, response, FORM_COOKIE, csrf_token)
    return response


def _target(request: Request) -> str:
    """Return the page to show after the sign-in: never one of another site."""
    target = str(request.params.get("next", ""))
    prefix = f"{prefix_of(request)}/"
    is_ours = target.startswith(prefix) and re.fullmatch(r"[!-\[\]-~]+", target)
    return target if is_ours else f"{prefix}today"
