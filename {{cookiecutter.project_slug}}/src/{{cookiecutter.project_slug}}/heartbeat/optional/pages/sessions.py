"""Sessions of browsers: signing in with an operator's token, and out again.

A session is a cookie alone, signed with the token that opened it, so that it ends when that token
is no longer valid, whichever process is asked. The cookie holds no secret: a random id and times.
"""

import hmac
import re
import secrets
from hashlib import sha256
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from pyramid.request import Request
from pyramid.response import Response
from webob.cookies import SignedSerializer

from ...security.addresses import Address
from ...security.policy import OPERATE, Caller, caller_with
from ...security.token import Token

COOKIE = "heartbeat_session"
# A session ends after these seconds without a visit, and after these seconds in any case.
IDLE_SECONDS = 8 * 3_600
LONGEST_SECONDS = 24 * 3_600
# The cookie is renewed after a visit, at most once in these seconds. It tolerates a clock that is
# behind by as much.
RENEW_SECONDS = 60


def session_caller(request: Request, address: Address | None) -> Caller | None:
    """Return the caller that the cookie of a session authorises; None without a valid one."""
    cookie = read_cookie(request, COOKIE).encode()
    heartbeat = request.heartbeat
    for token in heartbeat.operator_tokens.all() if cookie else ():
        try:
            session: dict[str, Any] = _serializer(token).loads(cookie)
        except ValueError:
            continue
        if _is_open(session, heartbeat.clock.now().timestamp()):
            # A secret that is in both files by mistake has lost its permission.
            caller = caller_with(heartbeat, address, as_in_header(token.secret))
            if caller.permission == OPERATE:
                request.environ["heartbeat.session"] = token, session
                key = f"csrf {token.secret}".encode()
                csrf_token = hmac.new(key, session["id"].encode(), sha256).hexdigest()
                return Caller(address, OPERATE, token.name, csrf_token)
    return None


def open_session(request: Request, response: Response, secret: str) -> None:
    """Open a session for the token with a secret, which is valid."""
    heartbeat = request.heartbeat
    now = int(heartbeat.clock.now().timestamp())
    session = {"id": secrets.token_urlsafe(16), "from": now, "seen": now}
    value = _serializer(heartbeat.operator_tokens.match(secret)).dumps(session)
    set_cookie(request, response, COOKIE, value)


def end_session(request: Request, response: Response) -> None:
    """End the session of this browser."""
    set_cookie(request, response, COOKIE, None)


def renew(request: Request, response: Response) -> None:
    """Note a person's visit in the cookie. The script that updates pages does not count."""
    if "heartbeat.session" not in request.environ or "X-Live" in request.headers:
        return
    token, session = request.environ["heartbeat.session"]
    now = int(request.heartbeat.clock.now().timestamp())
    if abs(now - session["seen"]) >= RENEW_SECONDS:
        set_cookie(request, response, COOKIE, _serializer(token).dumps(session | {"seen": now}))


def sign_in_path(request: Request) -> str:
    """Return the path of the sign-in, which leads back to the page that was asked for."""
    path = f"{prefix_of(request)}/sign-in"
    if request.method != "GET":
        return path
    try:
        return f"{path}?next={quote(request.path_qs, safe='')}"
    except UnicodeDecodeError:  # the path that was asked for is not UTF-8
        return path


def see_other(path: str) -> Response:
    """Return a redirect to a path of this application."""
    headers = [("Location", path), ("Cache-Control", "no-store")]
    return Response(status=HTTPStatus.SEE_OTHER, headerlist=headers)


def prefix_of(request: Request) -> str:
    """Return the path of the engine as a browser sees it."""
    prefix: str = request.route_path("heartbeat.beat", **(request.matchdict or {}))
    return prefix


def _serializer(token: Token) -> SignedSerializer:
    return SignedSerializer(token.secret.encode(), "heartbeat.session")


def _is_open(session: dict[str, Any], now: float) -> bool:
    begin, seen = int(session["from"]), int(session["seen"])
    in_use = seen - RENEW_SECONDS <= now <= seen + IDLE_SECONDS
    return in_use and now <= begin + LONGEST_SECONDS


def as_in_header(secret: str) -> str:
    """Return a secret as a header presents it: each byte is one character (PEP 3333)."""
    return secret.encode().decode("latin-1")


def read_cookie(request: Request, name: str) -> str:
    """Return the value of one of our cookies; empty without it."""
    # Not `request.cookies`, which fails if any cookie of this host is not UTF-8.
    header = request.headers.get("Cookie", "")
    found: list[str] = re.findall(rf"(?:^|;)\s*{name}=([\w-]*)", header, re.ASCII)
    return found[-1] if found else ""


def set_cookie(request: Request, response: Response, name: str, value: Any) -> None:
    """Set a cookie, or delete it with the value None."""
    response.set_cookie(
        name,
        value,
        # Only for our own paths: the host's views never receive it.
        path=prefix_of(request),
        secure=request.scheme == "https",
        httponly=True,
        samesite="Strict",
    )
