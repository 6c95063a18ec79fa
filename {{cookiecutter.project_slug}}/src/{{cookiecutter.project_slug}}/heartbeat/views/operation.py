"""The descriptions of routes, each beside its view, from which an API description is made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple

from pydantic import BaseModel


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of a route: the models that check its input and present its replies.

    replies: the model of each successful reply, by status; None is a reply without JSON.
    text_replies: the media types of a successful reply in plain text.
    problems: the statuses of errors, beside those that the guard answers on each route.
    request_headers, reply_headers: what each header means, by name; replies may lack theirs.
    """

    summary: str
    replies: Mapping[HTTPStatus, type[BaseModel] | None]
    text_replies: tuple[str, ...] = ()
    problems: frozenset[HTTPStatus] = frozenset()
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    request_headers: Mapping[str, str] = field(default_factory=dict)
    reply_headers: Mapping[str, str] = field(default_factory=dict)


class DescribedRoute(NamedTuple):
    """A route: its name, its pattern below the path, its permission, and operations by method."""

    name: str
    pattern: str
    permission: str
    operations: Mapping[str, Operation]
