"""Results of flows: stored or refused alike on every database."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run
from data_flows.heartbeat.errors import DeclarationError
from data_flows.heartbeat.json_values import MAX_JSON_DEPTH, MAX_LENGTH
from data_flows.heartbeat.models import DataFlowRun

from ..conftest import MakeApp
from ..entrances import both_entrances
from ..notes import Note

Post = Callable[..., Any]


def run_of(dbsession: Session) -> DataFlowRun:
    return dbsession.scalars(select(DataFlowRun)).one()


def nested(levels: int) -> Any:
    value: Any = "a"
    for level in range(levels):
        value = {"a": value} if level % 2 else [value]
    return value


@pytest.mark.parametrize(
    "result",
    [
        {"🦉": "a\0b", "n": [2**64, -(10**300), 1.5e300, 5e-324]},
        nested(MAX_JSON_DEPTH),
        "x" * (MAX_LENGTH - 2),
        '"\\' * (MAX_LENGTH // 4 - 1),
        "\0" * (MAX_LENGTH // 6 - 1),
        {1: "a", None: "b"},
    ],
    ids=["characters", "deep", "long", "escapes", "NUL", "keys"],
)
def test_a_result_within_the_limits_is_kept_on_every_database(
    make_app: MakeApp, post: Post, dbsession: Session, result: object
) -> None:
    post(make_app((lambda _run: result, {"name": "give"})))

    row = run_of(dbsession)
    assert (row.status, row.error_message) == ("success", None)
    assert row.result == json.loads(json.dumps(result))


@pytest.mark.usefixtures("notes")
@pytest.mark.parametrize(
    ("result", "problem"),
    [
        ({"rows": [{"name": "\ud800"}]}, r"['rows'][0]['name'] has the lone surrogate '\ud800'"),
        ({"\udc80": 1}, r"it has the key '\udc80', which has the lone surrogate"),
        ("\udfff", r"it has the lone surrogate '\udfff'"),
        (nested(MAX_JSON_DEPTH + 2), "is nested deeper than 31 levels"),
        (nested(190), "is nested deeper than 31 levels"),
        (nested(100_000), "is nested deeper than 31 levels"),
        ([10**400], "[0] is not a number within the range of a double"),
        ([10**5_000], "[0] is not a number within the range of a double"),
        ({"rate": math.nan}, "['rate'] is not a number within the range of a double"),
        ("x" * 100_000_000, "it has more than 5,000,000 characters"),
        (["x" * 1_000_000] * 100, "it has more than 5,000,000 characters"),
        ({1: "a", "1": "b"}, "it has two keys that are the same text in JSON"),
        ({b"a": 1}, "it has the key b'a', which is of the type bytes"),
        ({"at": object()}, "['at'] is of the type object"),
    ],
    ids=[
        *("surrogate", "surrogate in a key", "surrogate alone", "deep", "deeper", "deepest"),
        *("400 digits", "5000 digits", "NaN", "100 MB", "100 texts", "keys alike", "key", "object"),
    ],
)
def test_a_result_beyond_the_limits_is_refused_alike_on_every_database(
    make_app: MakeApp, post: Post, dbsession: Session, result: object, problem: str
) -> None:
    def give(run: Run) -> object:
        run.session.add(Note(name="written", mark="written", size=1))
        return result

    reply = post(make_app(give)).json

    row = run_of(dbsession)
    assert reply["flows_failed"] == 1
    assert (row.status, row.error_type) == ("failed", "ResultError")
    assert problem in (row.error_message or "")
    assert "return None, or a dict or list" in (row.error_message or "")
    assert dbsession.scalars(select(Note.name)).all() == []


@both_entrances
def test_a_configuration_is_held_to_the_limits_of_results(make_app: MakeApp) -> None:
    given = {"a": nested(MAX_JSON_DEPTH)}

    with pytest.raises(DeclarationError, match=r"as JSON: .* is nested deeper than 31 levels"):
        make_app((lambda _run: None, {"name": "deep", "configuration": given}))
