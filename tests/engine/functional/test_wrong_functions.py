"""Callables that cannot be flows stop the start, by the directive and by a scan alike."""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from data_flows.heartbeat import Run

from ..conftest import MakeApp, heartbeat_of
from ..entrances import Declare, both_entrances, refusal

pytestmark = both_entrances


async def later(_run: object) -> None:
    """Be no flow."""


async def later_and_later(_run: object) -> Any:
    """Be no flow."""
    yield


def one_by_one(_run: object) -> Iterator[int]:
    """Be no flow."""
    yield 1


class Later:
    """Objects that are called asynchronously."""

    async def __call__(self, _run: object) -> None:
        """Be no flow."""


@pytest.mark.parametrize(
    ("function", "reported"),
    [
        (later, "is async: declare a plain function, and use asyncio.run() inside it"),
        (later_and_later, "is async"),
        (functools.partial(later), "is async"),
        (Later(), "is async"),
        (one_by_one, "is a generator"),
        (Later, "is a class: declare a function"),
        (lambda: None, "takes (), but is called with one argument, the run"),
        (lambda run, more: (run, more), "takes (run, more), but is called with one argument"),
        (lambda *, run: run, "takes (*, run), but is called with one argument"),
    ],
)
def test_what_cannot_do_its_work_when_it_is_called_is_refused(
    make_app: MakeApp, function: Any, reported: str
) -> None:
    line = refusal(make_app, function, name="work")

    assert "flow 'work': function is " in line
    assert reported in line
    assert "valid is, for example, def greet(run)" in line


def test_a_lambda_needs_a_name(make_app: MakeApp) -> None:
    reported = refusal(make_app, lambda _run: None)

    assert "name is '<lambda>': a lambda has no name" in reported
    assert "named" in heartbeat_of(make_app((lambda _run: None, {"name": "named"}))).flows


def with_client(function: Callable[..., object]) -> Callable[[Run], object]:
    """Call a function with more than the run, and say that it is that function."""

    @functools.wraps(function)
    def called(run: Run) -> object:
        return function(run, "client")

    return called


class Worker:
    """Objects that do work."""

    def work(self, run: Run) -> None:
        """Work."""

    def __call__(self, run: Run) -> None:
        """Work."""


@pytest.mark.parametrize(
    "function",
    [
        with_client(lambda run, client: (run, client)),
        functools.partial(lambda client, run: (client, run), "client"),
        lambda run, retries=3: (run, retries),
        lambda *arguments: arguments,
        Worker(),
    ],
)
def test_whatever_can_be_called_with_a_run_is_a_flow(make_app: MakeApp, function: Any) -> None:
    assert "work" in heartbeat_of(make_app((function, {"name": "work"}))).flows


@pytest.mark.parametrize("function", ["text", len, Worker().work])
def test_other_callables_are_refused_or_work(
    make_app: MakeApp, declare: Declare, function: Any
) -> None:
    if callable(function) and declare.__name__ == "by_directive":
        assert "work" in heartbeat_of(make_app((function, {"name": "work"}))).flows
        return
    assert re.search(
        "callable|decorate a Python function", refusal(make_app, function, name="work")
    )
