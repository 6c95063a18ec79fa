"""The security policy of the rendered application, and the caller of a request."""

import logging
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from pyramid.request import Request
from pyramid.security import Allowed, Denied

from .addresses import Address, client_address
from .token import presented_token

log = logging.getLogger(__name__)

BEAT, OPERATE = "heartbeat.beat", "heartbeat.operate"
# Given to every caller from an allowed address: for the form of the sign-in, for example.
PUBLIC = "heartbeat.public"
# Given to every caller from any address: for probes, which come from inside a cluster.
OPEN = "heartbeat.open"
# A secret in a URL ends up in the logs of every proxy on the way.
QUERY_NAMES = {"token", "access_token", "api_key", "heartbeat_token", "x-heartbeat-token"}


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller: its address, if that is known, and the permission and name of its token.

    csrf_token: what its unsafe requests must send, if the cookie of a session authorised it; None
    for a token in a header.
    """

    address: Address | None
    permission: str | None = None
    token_name: str = ""
    csrf_token: str | None = field(default=None, repr=False)

    @property
    def source(self) -> str:
        """The caller, as a beat's row names it."""
        return " ".join(word for word in (str(self.address or "unknown"), self.token_name) if word)

    def may(self, permission: str) -> bool:
        """Return whether the token gives a permission; an operator's gives both.

        A cookie never authorises a beat.
        """
        if permission in {OPEN, PUBLIC, self.permission}:
            return True
        return self.csrf_token is None and (permission, self.permission) == (BEAT, OPERATE)


class HeartbeatSecurityPolicy:
    """The policy of the rendered application: the token of a request gives the permissions.

    The operator's token may do everything, the scheduler's may only beat.
    """

    def identity(self, request: Request) -> Caller | None:
        """Return the caller, if it has a valid token."""
        caller = identify(request)
        return caller if caller.permission else None

    def authenticated_userid(self, request: Request) -> str | None:
        """Return a name of the caller, if it has a valid token."""
        caller = identify(request)
        return caller.token_name or caller.permission

    def permits(self, request: Request, _context: object, permission: str) -> Allowed | Denied:
        """Return whether the caller has a permission of the engine."""
        may = identify(request).may(permission)
        return Allowed("a valid token") if may else Denied("no valid token")

    def forget(self, _request: Request, *_userid: str, **_options: object) -> list[tuple[str, str]]:
        """Return no headers: a token is sent with each call, and there is nothing to forget."""
        return []

    remember = forget


def identify(request: Request) -> Caller:
    """Return the caller of a request, from its address and its token, or else its session."""
    heartbeat = request.heartbeat
    headers = request.headers
    trusted = heartbeat.settings.trusted_proxies or ()
    address = client_address(request.remote_addr, headers.get("X-Forwarded-For"), trusted)
    presented = presented_token(headers.get("Authorization"), headers.get("X-Heartbeat-Token"))
    if _token_in_query(request, heartbeat):
        return Caller(address)
    if presented is not None:
        return caller_with(heartbeat, address, presented)
    # Set by optional/pages: returns the caller that the cookie of a session authorises, or None.
    session_caller = request.registry.get("heartbeat.session_caller")
    return (session_caller and session_caller(request, address)) or Caller(address)


def caller_with(heartbeat: Any, address: Address | None, presented: str) -> Caller:
    """Return the caller that presents a token; without a permission if the token is not valid."""
    # A secret that is in both files by mistake gets the lesser permission.
    for permission, tokens in ((BEAT, heartbeat.tokens), (OPERATE, heartbeat.operator_tokens)):
        if (token := tokens.match(presented)) is not None:
            return Caller(address, permission, token.name)
    return Caller(address)


def _token_in_query(request: Request, heartbeat: Any) -> bool:
    query = request.environ.get("QUERY_STRING", "")
    try:
        # Decoded like headers: each byte is one character. No call needs that many fields.
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
            message = "a call has a token in its URL, where proxies log it: replace that token"
            heartbeat.repeats.log(log, logging.WARNING, message)
            return True
    return False
