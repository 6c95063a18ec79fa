"""The limits of JSON that every database stores: results of runs, configurations of flows."""

import json
import math
import sys
from typing import Any, NoReturn

from .tracebacks import type_name

# MariaDB accepts 31 levels of lists and objects, the others more.
MAX_JSON_DEPTH = 31
# The statement must fit into the packet that MariaDB accepts by default, 16 MiB, even where the
# driver's escapes double the text.
MAX_LENGTH = 5_000_000
# MySQL stores a larger integer as a double, and refuses one beyond the range of a double.
MAX_NUMBER = sys.float_info.max
MAX_KEY_SHOWN = 50
MAX_PATH_SHOWN = 300

_TOO_LONG = f"it has more than {MAX_LENGTH:,} characters: write it to a table instead"


def json_problem(value: object) -> str | None:
    """Return why a value cannot be stored as JSON on every database, and where; None if it can.

    A value may have MAX_JSON_DEPTH levels of lists and objects, and MAX_LENGTH characters as JSON.
    Reading stops at the first problem, so that a value of any size is refused in bounded time.
    """
    if problem := _Reader().problem(value, ()):
        return problem
    try:
        length = len(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        return str(error)
    return _TOO_LONG if length > MAX_LENGTH else None


def parse_json(text: str) -> Any:
    """Parse stored JSON. Raises ValueError, or RecursionError if it is nested much too deep."""
    value = _DECODER.decode(text)
    # A text with few brackets is not nested deeply, and one without escapes has no lone surrogates.
    is_suspect = text.count("[") + text.count("{") > MAX_JSON_DEPTH or "\\u" in text
    if is_suspect and (problem := json_problem(value)):
        raise ValueError(problem)
    return value


class _Reader:
    """Reads a value item by item, and counts the characters."""

    def __init__(self) -> None:
        self.length = 0

    def problem(self, item: Any, path: tuple[object, ...]) -> str | None:
        """Return the first problem of an item or of the items within it."""
        # isinstance() would believe the `__class__` of the item.
        kind = type(item)
        if problem := self._own_problem(item, kind):
            return f"{_shown(path)} {problem}"
        if self.length > MAX_LENGTH:
            return _TOO_LONG
        if not issubclass(kind, (dict, list, tuple)):
            return None
        if len(path) == MAX_JSON_DEPTH:
            return f"{_shown(path)} is nested deeper than {MAX_JSON_DEPTH} levels"
        for key, child in item.items() if issubclass(kind, dict) else enumerate(item):
            if problem := self.problem(child, (*path, key)):
                return problem
        return None

    def _own_problem(self, item: Any, kind: type) -> str | None:
        self.length += len(item) if issubclass(kind, str) else 1
        if issubclass(kind, str):
            return _problem_of_text(item)
        if issubclass(kind, (int, float)):
            in_range = -MAX_NUMBER <= item <= MAX_NUMBER  # false for NaN, too
            return None if in_range else "is not a number within the range of a double"
        if issubclass(kind, dict):
            return self._problem_of_keys(item)
        if item is None or issubclass(kind, (list, tuple)):
            return None
        return f"is of the type {type_name(kind)}"

    def _problem_of_keys(self, item: dict[object, object]) -> str | None:
        for key in item:
            kind = type(key)
            if issubclass(kind, (dict, tuple)):
                return f"has a key of the type {type_name(kind)}"
            if problem := self._own_problem(key, kind):
                return f"has the key {_short(key)}, which {problem}"
        if all(type(key) is str for key in item):
            return None
        texts = {key if isinstance(key, str) else json.dumps(key) for key in item}
        return None if len(texts) == len(item) else "has two keys that are the same text in JSON"


def _problem_of_text(text: str) -> str | None:
    if len(text) > MAX_LENGTH or text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"has the lone surrogate {text[error.start]!r}, which is not a character"
    return None


def _short(key: object) -> str:
    try:
        return repr(key[:MAX_KEY_SHOWN] if isinstance(key, str) else key)[: 2 * MAX_KEY_SHOWN]
    except Exception:  # noqa: BLE001 - an integer may be too long for text, and a key raise anything
        return f"({type_name(type(key))})"


def _shown(path: tuple[object, ...]) -> str:
    """Return the keys that lead to an item, as Python writes them."""
    text = "".join(f"[{_short(key)}]" for key in path)
    if len(text) > MAX_PATH_SHOWN:
        half = MAX_PATH_SHOWN // 2
        text = f"{text[:half]} … {text[-half:]}"
    return text or "it"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"the number {text} is too large")
    return number


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant)
