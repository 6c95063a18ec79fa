"""The JSON that every database stores, and the problems of other values."""

import json
import math
from collections import OrderedDict, namedtuple
from enum import IntEnum, StrEnum
from typing import Any
from unittest.mock import Mock

import pytest

from data_flows.heartbeat.json_values import MAX_JSON_DEPTH, MAX_LENGTH, json_problem, parse_json


class Legs(IntEnum):
    """Numbers with names."""

    TWO = 2


class Bird(StrEnum):
    """Texts with names."""

    OWL = "owl"


Pair = namedtuple("Pair", "name legs")  # noqa: PYI024 - an example of an untyped one


SURROGATE = r"has the lone surrogate '\udfff', which is not a character"


def nested(levels: int, kind: type = list) -> Any:
    """Return as many levels of lists, or of objects."""
    value: Any = 1
    for _ in range(levels):
        value = [value] if kind is list else {"a": value}
    return value


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 0, -1.5, "", [], {}, (), "a\0b", "Käuzchen 🦉", 2**64, 10**300, -(10**300)),
        *(Legs.TWO, Bird.OWL, Pair("owl", 2), OrderedDict(a=1), {1: "a", None: 2, 1.5: 3}),
        *(
            nested(MAX_JSON_DEPTH),
            nested(MAX_JSON_DEPTH, dict),
            "x" * (MAX_LENGTH - 2),
            {"🦉": "🦉"},
        ),
    ],
)
def test_what_json_holds_can_be_stored(value: object) -> None:
    assert json_problem(value) is None
    assert len(json.dumps(value, allow_nan=False)) <= MAX_LENGTH


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (object(), "it is of the type object"),
        ({"a": [1, {2}]}, "['a'][1] is of the type set"),
        ({"a": b"x"}, "['a'] is of the type bytes"),
        ([Mock(spec=dict)], "[0] is of the type Mock"),
        ({(1, 2): 3}, "it has a key of the type tuple"),
        ([{frozenset(): 3}], "[0] has the key frozenset(), which is of the type frozenset"),
        ({"a": {b"x": 3}}, "['a'] has the key b'x', which is of the type bytes"),
        ({1: "a", "1": "b"}, "it has two keys that are the same text in JSON"),
        ({True: "a", "true": "b"}, "it has two keys that are the same text in JSON"),
        (
            {"rows": [{"name": "a\ud800b"}]},
            rf"['rows'][0]['name'] {SURROGATE}".replace("dfff", "d800"),
        ),
        ({"\udfff": 1}, rf"it has the key '\udfff', which {SURROGATE}"),
        (math.nan, "it is not a number within the range of a double"),
        ([-math.inf], "[0] is not a number within the range of a double"),
        ({"n": 10**309}, "['n'] is not a number within the range of a double"),
        ({"n": 10**5_000}, "['n'] is not a number within the range of a double"),
        (
            {math.nan: 1},
            "it has the key nan, which is not a number within the range of a double",
        ),
        (
            {10**5_000: 1},
            "it has the key (int), which is not a number within the range of a double",
        ),
        (nested(MAX_JSON_DEPTH + 1), "[0]" * MAX_JSON_DEPTH + " is nested deeper than 31 levels"),
    ],
)
def test_what_cannot_be_stored_is_named_with_its_place(value: object, problem: str) -> None:
    assert json_problem(value) == problem


TOO_LONG = "it has more than 5,000,000 characters: write it to a table instead"


@pytest.mark.parametrize(
    "value",
    [
        "x" * (MAX_LENGTH - 1),
        "🦉" * (MAX_LENGTH // 12 + 1),
        "\0" * MAX_LENGTH,
        "x" * 100_000_000,
        {"x" * MAX_LENGTH: 1},
        ["x" * 1_000_000] * 100,
        [1] * 20_000_000,
        list(range(1_000_000)),
    ],
    ids=["text", "escapes", "NUL", "100 MB", "key", "texts", "numbers", "digits"],
)
def test_what_is_too_long_is_refused(value: object) -> None:
    assert json_problem(value) == TOO_LONG


def test_what_is_too_long_is_not_read_to_its_end() -> None:
    class Endless(dict[str, int]):
        def items(self) -> Any:
            """Return more than is ever read."""
            return ((str(number), number) for number in iter(int, 1))

    assert json_problem(Endless(a=1)) == TOO_LONG


def test_a_circle_is_deeper_than_any_limit() -> None:
    circle: dict[str, Any] = {}
    circle["again"] = [circle]

    problem = json_problem(circle) or ""

    assert problem.startswith("['again'][0]['again'][0]")
    assert problem.endswith("is nested deeper than 31 levels")
    assert len(problem) < 400


def test_a_long_key_is_cut() -> None:
    problem = json_problem({"k" * 1_000_000: {1}}) or ""

    assert problem.startswith("['kkk")
    assert len(problem) < 400


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "NaN", "[Infinity]", "1e999", "[-1e999]", '"\\ud800"', '{"\\udfff": 1}'),
        "[" * 32 + "]" * 32,
        "1" * 5_000,
    ],
)
def test_stored_json_that_could_not_be_stored_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_json(text)
