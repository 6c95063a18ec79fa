"""Validation of input: settings, declarations, configurations and requests."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from .errors import InputError
from .redaction import redact

LONGEST_VALUE = 100

_Model = TypeVar("_Model", bound=BaseModel)


class InputProblem(NamedTuple):
    """A problem of an input. Neither text holds a secret, or the userinfo of a URL.

    field: such as "configuration.limit"; empty for a problem of several fields together.
    value: the field's value as Python writes it; empty where there is none.
    """

    field: str
    value: str
    reason: str


def problems_in(
    error: ValidationError,
    given: Mapping[str, Any],
    model: type[BaseModel],
    kind: str = "field",
    prefix: str = "",
) -> Iterator[InputProblem]:
    """Yield the problems that pydantic has found in `given`, the input of a model.

    kind: the word for a field of the model. prefix: the beginning of the name of each.
    """
    for found in error.errors(include_url=False, include_context=False):
        field = ".".join(map(str, found["loc"]))
        known = model.model_fields.get(field.partition(".")[0])
        # The input of an error may be the result of our own validators.
        value = _value(given.get(field, found["input"]))
        reason = found["msg"].removeprefix("Value error, ")
        if found["type"] == "extra_forbidden":
            value = ""
            reason = f"there is no such {kind}{_nearest_field(field, model, prefix)}"
        elif not field or found["type"] == "missing":
            value = ""
        elif known and "Secret" in str(known.annotation):
            value = "(not shown)"
        yield InputProblem(prefix + field, value, redact(reason, limit=2 * LONGEST_VALUE))


def describe_problems(
    error: ValidationError,
    given: Mapping[str, Any],
    model: type[BaseModel],
    kind: str = "field",
    prefix: str = "",
) -> Iterator[str]:
    """Yield a line for each of `problems_in`: name, value, reason and a valid example."""
    for field, value, reason in problems_in(error, given, model, kind, prefix):
        known = model.model_fields.get(field.removeprefix(prefix))
        name = f"{field} is {value}" if value else field
        line = f"{name}: {reason}" if field != prefix else reason
        if known and known.examples:
            line += f"; valid is, for example, {known.examples[0]}"
        yield line.replace("\n", " ")


def validate_input(model: type[_Model], given: Mapping[str, Any], *place: str) -> _Model:
    """Return `given` as `model`. Raises InputError with all problems by field, below `place`."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        reasons = defaultdict[str, list[str]](list)
        for field, _value, reason in problems_in(error, given, model):
            reasons[".".join(filter(None, (*place, field)))].append(reason)
        raise InputError(reasons) from error


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return the end of a message about an unknown name, which suggests the nearest known one."""
    near = get_close_matches(name, names, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _nearest_field(name: str, model: type[BaseModel], prefix: str) -> str:
    for near in get_close_matches(name, model.model_fields, 1):
        examples = model.model_fields[near].examples
        example = f", as in {examples[0]}" if examples and not prefix else ""
        return f"; did you mean {prefix}{near}{example}?"
    return ""


def _value(given: Any) -> str:
    try:
        return redact(repr(given), limit=LONGEST_VALUE)
    except Exception:  # noqa: BLE001 - any class may be given; its problem is reported anyway
        return f"a {type(given).__name__}"
