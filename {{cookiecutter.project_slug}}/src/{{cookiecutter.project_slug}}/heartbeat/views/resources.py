"""The JSON resources for operators: how their input is read, and how errors are answered."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, TypeAdapter, ValidationError
from pyramid.config import Configurator
from pyramid.httpexceptions import exception_response
from pyramid.request import Request
from pyramid.response import Response

from ..core import Heartbeat
from ..errors import (
    DatabaseBusyError,
    DataFlowError,
    InputError,
    UnknownFlowError,
    UnknownRunError,
)
from ..json_values import MAX_JSON_DEPTH
from ..runs.register import register
from ..security.policy import OPERATE
from ..validation import validate_input
from .guard import add_guarded_view
from .operation import Operation
from .problems import problem

# Other errors are conflicts, such as a name that is taken or an active run.
STATUSES = {
    UnknownFlowError: HTTPStatus.NOT_FOUND,
    UnknownRunError: HTTPStatus.NOT_FOUND,
    InputError: HTTPStatus.UNPROCESSABLE_ENTITY,
}
_OBJECT = TypeAdapter(dict[str, Any])

ResourceView = Callable[[Heartbeat, Request], Response]
_Model = TypeVar("_Model", bound=BaseModel)


def add_resource(
    config: Configurator, view: ResourceView, pattern: str, operations: Mapping[str, Operation]
) -> None:
    """Add a route below the path and its view, which answers JSON to operators."""
    described = {
        method: replace(operation, problems=operation.problems | {HTTPStatus.NOT_ACCEPTABLE})
        for method, operation in operations.items()
    }
    methods = tuple(described)
    add_guarded_view(config, _answering(view), pattern, OPERATE, methods, operations=described)


def _answering(view: ResourceView) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        if not request.accept.acceptable_offers(["application/json"]):
            raise exception_response(406, detail="only application/json is available")
        register(request.heartbeat)
        try:
            return view(request.heartbeat, request)
        except DatabaseBusyError:
            raise
        except DataFlowError as error:
            return error_reply(error)

    answer.__name__ = view.__name__
    return answer


def error_reply(error: DataFlowError) -> Response:
    """Return the reply to an operator's mistake or conflict."""
    errors = error.errors if isinstance(error, InputError) else None
    return problem(STATUSES.get(type(error), HTTPStatus.CONFLICT), str(error), errors=errors)


def read_body(request: Request) -> dict[str, Any]:
    """Return the JSON object in the body. Raises 400, 415, or InputError if it is too deep."""
    if request.content_type.strip().lower() != "application/json":
        raise exception_response(415, detail="send application/json")
    try:
        return _OBJECT.validate_json(request.body)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        if "recursion limit" in reason and request.body.lstrip().startswith(b"{"):
            depth = f"is nested deeper than {MAX_JSON_DEPTH} levels"
            raise InputError({"body": [depth]}) from error
        raise exception_response(400, detail=f"the body is not a JSON object: {reason}") from error


def read_query(request: Request, model: type[_Model]) -> _Model:
    """Return the query string as `model`; an empty value counts as not given.

    Raises InputError with the problems by parameter, and 400 for a query that is not UTF-8.
    """
    query = request.environ.get("QUERY_STRING", "")
    try:
        pairs = parse_qsl(query.encode("latin-1").decode(), errors="strict")
    except ValueError as error:
        raise exception_response(400, detail="the query is not UTF-8") from error
    given = dict(pairs)
    if len(given) < len(pairs):
        names = [name for name, _value in pairs]
        repeated = {name: ["is given more than once"] for name in given if names.count(name) > 1}
        raise InputError(repeated)
    return validate_input(model, given)
