"""Configurations that no database could keep are refused alike on all, at each entrance."""

import json
import math
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat.errors import DeclarationError
from data_flows.heartbeat.json_values import MAX_JSON_DEPTH
from data_flows.heartbeat.models import DataFlow

from ..conftest import MakeApp
from ..entrances import both_entrances
from .conftest import Command, settle
from .operated import AS_OPERATOR, SECRET, Call, add_flow, count, path_of, row_of


def nested(levels: int) -> dict[str, Any]:
    """Return objects in each other, so many of them."""
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


class Deep(BaseModel):
    """A model whose default is nested too deeply."""

    region: dict[str, Any] = nested(MAX_JSON_DEPTH)


class Endless(BaseModel):
    """A model whose default is not a JSON number."""

    rate: float = math.inf


class Strange(BaseModel):
    """A model whose default is of no type that JSON knows."""

    thing: Any = object()


@pytest.fixture
def app(make_app: MakeApp) -> TestApp:
    """Make an application with one flow."""
    return make_app(count, **SECRET)


def test_the_deepest_configuration_is_kept_and_given_to_the_run(app: TestApp, call: Call) -> None:
    deepest = nested(MAX_JSON_DEPTH)

    changed = call("PATCH", "/flows/count", {"configuration": deepest}, status=200).json
    add_flow(call, "another", configuration=deepest)
    # Its result has one level more: of the configuration, and so of the result, is one taken off.
    call("PATCH", "/flows/count", {"configuration": deepest["a"]}, status=200)
    run = call("POST", "/flows/count/runs", status=202)
    settle()

    assert changed["configuration"] == deepest
    shown = app.get(path_of(run), headers=AS_OPERATOR).json
    assert shown["result"] == {"counted": deepest["a"]}


@pytest.mark.parametrize("levels", [MAX_JSON_DEPTH + 1, 100, 190, 1_000, 5_000])
def test_a_deeper_configuration_is_refused(
    app: TestApp, call: Call, dbsession: Session, levels: int
) -> None:
    call("GET", "/flows", status=200)
    body = '{"configuration": ' + '{"a": ' * (levels - 1) + "{}" + "}" * levels
    new = '{"name": "new", "handler": "count", "every": "5m", ' + body[1:]
    headers = {**AS_OPERATOR, "Content-Type": "application/json"}

    replies = [
        app.patch("/heartbeat/flows/count", body, headers=headers, status=422).json,
        app.post("/heartbeat/flows", new, headers=headers, status=422).json,
    ]

    for reply in replies:
        [(_field, [reported])] = reply["errors"].items()
        assert reported.endswith(f"is nested deeper than {MAX_JSON_DEPTH} levels")
    assert row_of(dbsession, "count").configuration == {}
    assert dbsession.scalars(select(DataFlow.name)).all() == ["count"]


@pytest.mark.parametrize(
    ("pair", "reported"),
    [
        ("a=" + json.dumps(nested(MAX_JSON_DEPTH)), "is nested deeper than 31 levels"),
        ("a=" + "[" * 900 + "]" * 900, "is nested deeper than 31 levels"),
        ("a=[1, NaN]", "['a'][1] is not a number within the range of a double"),
        ("a=1e999", "['a'] is not a number within the range of a double"),
        ('a="\\ud800"', r"['a'] has the lone surrogate '\ud800'"),
        ("a=\udcff", r"['a'] has the lone surrogate '\udcff'"),
        ("\udcff=1", r"it has the key '\udcff', which has the lone surrogate"),
    ],
    ids=lambda text: text[:12].encode("ascii", "replace").decode(),
)
def test_the_command_refuses_the_same(
    command: Command, dbsession: Session, pair: str, reported: str
) -> None:
    result = command("add", "new", "--handler", "good", "--every", "5m", "--set", pair)

    assert result.exit_code == 1
    assert result.output.startswith("Error: configuration: ")
    assert reported in result.output
    assert "new" not in dbsession.scalars(select(DataFlow.name)).all()


@both_entrances
@pytest.mark.parametrize(
    ("configuration", "reported"),
    [
        (nested(MAX_JSON_DEPTH + 1), "is nested deeper than 31 levels"),
        (nested(50_000), "is nested deeper than 31 levels"),
        ({"a": [math.nan]}, "['a'][0] is not a number within the range of a double"),
        ({"a": "\ud800"}, "['a'] has the lone surrogate"),
        ({"a": {1, 2}}, "['a'] is of the type set"),
        (Deep, "is nested deeper than 31 levels"),
        (Endless, "['rate'] is not a number within the range of a double"),
        (Strange, "Unable to serialize"),
    ],
    ids=["deep", "deeper", "nan", "surrogate", "set", "model", "infinity", "type"],
)
def test_a_declared_configuration_that_cannot_be_stored_stops_the_start(
    make_app: MakeApp, configuration: Any, reported: str
) -> None:
    with pytest.raises(DeclarationError) as caught:
        make_app((count, {"configuration": configuration}))

    assert reported in str(caught.value)
    assert "configuration is" in str(caught.value)
    assert len(str(caught.value)) < 1_500


@pytest.mark.parametrize("rate", ["NaN", "[1e999]"])
def test_a_number_that_json_does_not_know_is_refused(app: TestApp, rate: str) -> None:
    headers = {**AS_OPERATOR, "Content-Type": "application/json"}
    body = '{"configuration": {"rate": ' + rate + "} }"

    reply = app.patch("/heartbeat/flows/count", body, headers=headers, status=422)

    [(field, [reported])] = reply.json["errors"].items()
    assert field == "configuration"
    assert reported.startswith("['rate']")
    assert reported.endswith("is not a number within the range of a double")
