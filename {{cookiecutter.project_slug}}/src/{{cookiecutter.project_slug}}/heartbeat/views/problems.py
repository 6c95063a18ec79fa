"""Errors as `application/problem+json` (RFC 9457), with the short reason in `error`."""

import json
from http import HTTPStatus
from typing import Any

from pyramid.httpexceptions import status_map
from pyramid.response import Response

from ..members import as_json

RETRY_AFTER_SECONDS = "30"


def problem(
    status: HTTPStatus, detail: str, headers: dict[str, str] | None = None, **members: object
) -> Response:
    """Return the response for an error: `detail` states what happened and what to do."""
    reason: Any = status_map[status].title  # the same words with every version of Python
    body = {"type": "about:blank", "title": reason, "status": status.value, "error": reason}
    body |= {"detail": detail, **members}
    return json_reply(status, body, {"Content-Type": "application/problem+json", **(headers or {})})


def unavailable(detail: str) -> Response:
    """Return 503 with `Retry-After`."""
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, {"Retry-After": RETRY_AFTER_SECONDS})


def json_reply(status: HTTPStatus, body: object, headers: dict[str, str] | None = None) -> Response:
    """Return members, or a mapping, as a JSON response that no cache stores."""
    sent = {"Content-Type": "application/json", "Cache-Control": "no-store", **(headers or {})}
    text = json.dumps(body, default=as_json) + "\n"
    return Response(text.encode(), status.value, [*sent.items()])
