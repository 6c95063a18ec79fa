"""Validation of input: settings, declarations, configurations and requests."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from .errors import InputError
from .redaction import redact

LONGEST_VALUE = 100

_Model = TypeVar("_Model", bound=BaseModel)


class InputProblem(NamedTuple):
    """A problem of an input. It contains neither a secret nor the userinfo of a URL.

    field: such as "configuration.limit"; empty for a problem of several fields together.
    line: name, value, reason and a valid example, in one line.
    """

    field: str
    reason: str
    line: str


def problems_in(
    error: ValidationError, given: Mapping[str, Any], model: type[BaseModel], kind: str, prefix: str
) -> Iterator[InputProblem]:
    """Yield the problems that pydantic has found in `given`, the input of a model.

    kind: the word for a field of the model. prefix: the beginning of the name of each in `line`.
    """
    for found in error.errors(include_url=False, include_context=False):
        field = ".".join(map(str, found["loc"]))
        known = model.model_fields.get(field.partition(".")[0])
        reason = redact(found["msg"].removeprefix("Value error, "), limit=2 * LONGEST_VALUE)
        name = prefix + field
        if found["type"] == "extra_forbidden":
            reason = f"there is no such {kind}{_nearest_field(field, model, prefix)}"
        elif field and found["type"] != "missing":
            # The input of an error may be the result of our own validators.
            name += f" is {_shown(given.get(field, found['input']), known)}"
        examples = known.examples if known else None
        example = f"; valid is, for example, {examples[0]}" if examples else ""
        line = f"{name}: {reason}{example}" if found["loc"] else reason
        yield InputProblem(field, reason, line.replace("\n", " "))


def validate_input(model: type[_Model], given: Mapping[str, Any], *place: str) -> _Model:
    """Return `given` as `model`. Raises InputError with all problems by field, below `place`."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        reasons = defaultdict[str, list[str]](list)
        for problem in problems_in(error, given, model, "field", ""):
            reasons[".".join(filter(None, (*place, problem.field)))].append(problem.reason)
        raise InputError(reasons) from error


def _nearest_field(name: str, model: type[BaseModel], prefix: str) -> str:
    near = get_close_matches(name, model.model_fields, 1)
    if not near:
        return ""
    examples = model.model_fields[near[0]].examples
    example = f", as in {examples[0]}" if examples and not prefix else ""
    return f"; did you mean {prefix}{near[0]}{example}?"


def _shown(value: Any, field: FieldInfo | None) -> str:
    if field and "Secret" in str(field.annotation):
        return "(not shown)"
    try:
        return redact(repr(value), limit=LONGEST_VALUE)
    except Exception:  # noqa: BLE001 - any class may be given; its problem is reported anyway
        return f"a {type(value).__name__}"
