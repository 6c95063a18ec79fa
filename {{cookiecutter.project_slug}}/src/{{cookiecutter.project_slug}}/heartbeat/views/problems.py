"""Errors as `application/problem+json` (RFC 9457), with the short reason in `error`."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pyramid.httpexceptions import status_map
from pyramid.response import Response

from ..members import as_json

RETRY_AFTER_SECONDS = "30"
PROBLEM = "application/problem+json"


class Problem(BaseModel):
    """An error. `error` is the short reason, `detail` what happened and what to do."""

    type: str = "about:blank"
    title: str
    status: int
    error: str
    detail: str


class InputProblems(Problem):
    """The problems of an input: the reasons by field, in `errors`."""

    errors: dict[str, list[str]]


def problem(
    status: HTTPStatus,
    detail: str,
    headers: dict[str, str] | None = None,
    errors: Mapping[str, list[str]] | None = None,
) -> Response:
    """Return the response for an error, with the reasons by field if there are `errors`."""
    reason: Any = status_map[status].title  # the same words with every version of Python
    body = Problem(title=reason, status=status.value, error=reason, detail=detail)
    if errors is not None:
        body = InputProblems(**body.model_dump(), errors=dict(errors))
    return json_reply(status, body, {"Content-Type": PROBLEM, **(headers or {})})


def unavailable(detail: str) -> Response:
    """Return 503 with `Retry-After`."""
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, {"Retry-After": RETRY_AFTER_SECONDS})


def json_reply(status: HTTPStatus, body: object, headers: dict[str, str] | None = None) -> Response:
    """Return members, or a mapping, as a JSON response that no cache stores."""
    sent = {"Content-Type": "application/json", "Cache-Control": "no-store", **(headers or {})}
    text = json.dumps(body, default=as_json) + "\n"
    return Response(text.encode(), status.value, [*sent.items()])
