"""To show one flow of many takes no more of the database than to show the only one."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, Pool, event, insert
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat.models import DataFlow, table_of

from ..conftest import MakeApp
from ..factories import NOON
from .conftest import Command
from .operated import SECRET, Call, count

MANY = 2_000


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count statements and the rows that they give; on SQLite what its virtual machine does."""
    counts: Counter[str] = Counter()

    def step() -> None:
        counts["steps"] += 1

    def watch(connection: Any, *_ignored: object) -> None:
        if hasattr(connection, "set_progress_handler"):
            connection.set_progress_handler(step, 1)

    def executed(_connection: object, cursor: Any, *_ignored: object) -> None:
        counts["statements"] += 1
        counts["rows"] += max(cursor.rowcount, 0)

    listeners: list[tuple[type, str, Callable[..., None]]] = [
        (Pool, "checkout", watch),
        (Engine, "after_cursor_execute", executed),
    ]
    for target, name, listener in listeners:
        event.listen(target, name, listener)
    yield counts
    for target, name, listener in listeners:
        event.remove(target, name, listener)


def add_many(dbsession: Session) -> None:
    """Add so many flows."""
    new = {"handler": "count", "run_interval": 300, "created_at": NOON, "updated_at": NOON}
    rows = [{"name": f"flow {number}", **new} for number in range(MANY)]
    dbsession.execute(insert(table_of(DataFlow)), rows)
    dbsession.commit()


def assert_alike(few: Counter[str], many: Counter[str]) -> None:
    """Compare the queries with few flows and with many."""
    assert few["statements"] == many["statements"] <= 10
    assert few["rows"] == many["rows"]
    # A search in an index takes a step or two more.
    assert many["steps"] < 1.2 * few["steps"] + 100


@pytest.fixture
def app(make_app: MakeApp) -> TestApp:
    """Make an application with two flows, of which one waits for the other."""
    flows = (count, {"name": "extract"}), (count, {"name": "load", "after": ["extract"]})
    return make_app(*flows, count, **SECRET)


@pytest.mark.parametrize("name", ["extract", "load"])
@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("GET", None),
        ("PATCH", {"every": "7m"}),
        ("PATCH", {"enabled": False}),
        ("PATCH", {"configuration": {"region": "eu"}}),
    ],
)
def test_one_flow_is_shown_without_reading_the_others(
    call: Call, dbsession: Session, method: str, body: object, name: str
) -> None:
    path = f"/flows/{name}"
    call("GET", path, status=200)

    with counted() as few:
        call(method, path, body, status=200)
    add_many(dbsession)
    with counted() as many:
        shown = call(method, path, body, status=200).json

    assert shown["why"]
    assert_alike(few, many)


def test_a_flow_is_added_without_reading_the_others(call: Call, dbsession: Session) -> None:
    new = {"handler": "count", "every": "10m"}
    call("GET", "/flows", status=200)

    with counted() as few:
        call("POST", "/flows", {"name": "new", **new}, status=201)
    add_many(dbsession)
    with counted() as many:
        call("POST", "/flows", {"name": "newer", **new}, status=201)

    assert_alike(few, many)


def test_why_is_printed_without_reading_others(command: Command, dbsession: Session) -> None:
    assert command("why", "good").exit_code == 0

    with counted() as few:
        first = command("why", "good")
    add_many(dbsession)
    with counted() as many:
        second = command("why", "good")

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert few["statements"] == many["statements"]
    assert few["rows"] == many["rows"]
    # A process compares the stored options of all flows with the declared ones, once; to read the
    # flows would take a hundred steps for each.
    assert many["steps"] < few["steps"] + 5 * MANY


def test_all_flows_are_listed_by_as_many_statements_as_one(call: Call, dbsession: Session) -> None:
    call("GET", "/flows", status=200)
    with counted() as few:
        call("GET", "/flows", status=200)
    add_many(dbsession)

    with counted() as many:
        listed = call("GET", "/flows", status=200).json["flows"]

    assert len(listed) == MANY + 3
    assert few["statements"] == many["statements"]
