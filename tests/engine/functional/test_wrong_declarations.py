"""Declarations that cannot work stop the start, by the directive and by a scan alike.

The error names the place, the option, its value and a valid example.
"""

import functools
import inspect
import math
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pyramid import exceptions
from pyramid.config import Configurator

from data_flows.heartbeat import Run
from data_flows.heartbeat.errors import DeclarationError

from ..conftest import MakeApp
from ..entrances import PLACE, Declare, both_entrances, refusal
from ..factories import NOON

pytestmark = both_entrances


def one(_run: Run) -> None:
    """Do the one thing."""


def other(_run: Run) -> None:
    """Do the other thing."""


# ---------------------------------------------------------------------------------------------
# Options


@pytest.mark.parametrize(
    "every",
    [
        *(0, -5, "", "0m", "5 minutes", "m", "1.5h", "1h30m", "9999999999d", 1.5, True, []),
        *(None, timedelta(milliseconds=1500)),
    ],
)
def test_an_invalid_interval_is_refused(make_app: MakeApp, every: object) -> None:
    reported = refusal(make_app, one, every=every)

    assert "flow 'one': every is " in reported
    assert repr(every) in reported
    assert '"30s", "5m", "2h" or "1d"' in reported


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "a\nb", "a\0b", "a ", " a", ".", "..", ".a", "x" * 201, 5, None]
)
def test_an_invalid_name_is_refused(make_app: MakeApp, name: object) -> None:
    reported = refusal(make_app, functools.partial(one), name=name)

    assert "name is " in reported
    assert 'for example, name="import_orders"' in reported


@pytest.mark.parametrize("start", ["later", "", 5, None])
def test_a_start_that_is_neither_now_nor_next_is_refused(make_app: MakeApp, start: object) -> None:
    reported = refusal(make_app, one, start=start)

    assert f"start is {start!r}: " in reported
    assert "'now' or 'next'" in reported
    assert 'for example, start="next"' in reported


def circle() -> dict[str, Any]:
    """Return a dict that contains itself."""
    value: dict[str, Any] = {}
    value["itself"] = value
    return value


class Unreadable(dict[str, object]):
    """A dict that cannot be read or shown."""

    def __iter__(self) -> Iterator[str]:
        """Raise an error that a scan ignores."""
        raise ValueError

    items = keys = __iter__  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Raise it as well."""
        raise ValueError


@pytest.mark.parametrize(
    "configuration",
    [
        *([], "text", 5, {"when": NOON}, {"rate": math.nan}, {"birds": {"owl"}}, circle()),
        Unreadable(),
    ],
    ids=["list", "text", "number", "datetime", "NaN", "set", "circle", "unreadable"],
)
def test_a_configuration_that_is_not_an_object_is_refused(
    make_app: MakeApp, configuration: object
) -> None:
    reported = refusal(make_app, one, configuration=configuration)

    assert "configuration is " in reported
    assert 'for example, configuration={"region": "eu"}' in reported


@pytest.mark.parametrize(
    ("given", "hook", "module"),
    [
        ({"timeout": "10m"}, "execute_in_subprocess", "optional/timeouts.py"),
        ({"after": ["other"]}, "check_conditions", "optional/conditions.py"),
        ({"when": one}, "check_conditions", "optional/conditions.py"),
        ({"queue": "heavy"}, "queues", "optional/celery/"),
    ],
)
def test_an_option_is_refused_where_nothing_could_keep_it(
    make_app: MakeApp, declare: Declare, given: dict[str, Any], hook: str, module: str
) -> None:
    def configure(config: Configurator) -> None:
        # As it is without the optional module.
        setattr(config.registry["heartbeat"], hook, None)
        declare(config, one, {"every": "5m", **given})

    with pytest.raises(DeclarationError, match=PLACE) as caught:
        make_app(configure=configure)

    [(option, value)] = given.items()
    assert f"{option} is {value!r}: needs the optional module {module}" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        (
            {"cron": "61 * * * *"},
            "cron is '61 * * * *': '61 * * * *' is not a valid cron",
        ),
        ({"cron": "0 25 * * *"}, 'valid is, for example, cron="0 3 * * *"'),
        ({"cron": "0 3 * *"}, "(Wrong number of fields)"),
        ({"cron": "0 3 30 2 *"}, "(Bad day-of-month)"),
        ({"cron": "@daily", "timezone": "Berlin"}, "timezone is 'Berlin': 'Berlin' is not an"),
        ({"every": "5m", "timezone": "Berlin"}, 'for example, timezone="Europe/Berlin"'),
        (
            {"every": "5m", "between": "22-6"},
            "between is '22-6': '22-6' is not a valid daily window",
        ),
        ({"every": "5m", "cron": "@daily"}, "every is 300 and cron is '@daily': declare one of"),
        ({}, "every is None and cron is None: declare one of the two, every such as "),
        ({"cron": "0 12 * * *", "between": "22:00-06:00"}, "no time of '0 12 * * *' lies between"),
        ({"every": "5m", "catch_up": "twice"}, "catch_up is 'twice'"),
        ({"every": "5m", "grace": "soon"}, "grace is 'soon': 'soon' is not a valid interval"),
        ({"every": "5m", "retries": -1}, "retries is -1"),
        ({"every": "5m", "retries": "three"}, "retries is 'three'"),
        ({"every": "5m", "retries": "three"}, "valid is, for example, retries=3"),
        ({"every": "5m", "retry_delay": 0}, "retry_delay is 0"),
        ({"every": "5m", "pause_after": 0}, "pause_after is 0"),
        ({"every": "5m", "when": "later"}, "when is 'later'"),
        ({"every": "5m", "after": "extract"}, "after is 'extract'"),
        ({"every": "5m", "description": 5}, 'for example, description="Copy new orders"'),
        ({"evry": "5m"}, 'evry: there is no such option; did you mean every, as in every="5m"?'),
        ({"every": "5m", "colour": "red"}, "colour: there is no such option"),
    ],
)
def test_what_cannot_work_is_refused_at_start(
    make_app: MakeApp, declare: Declare, options: dict[str, Any], reported: str
) -> None:
    with pytest.raises(DeclarationError, match=PLACE) as caught:
        make_app(configure=lambda config: declare(config, one, options))

    assert reported in str(caught.value)


def test_all_problems_of_a_declaration_are_reported_together_each_with_its_place(
    make_app: MakeApp,
) -> None:
    with pytest.raises(DeclarationError) as caught:
        make_app((one, {"every": 0, "name": "a/b", "start": "later"}))

    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    for name in ("every", "name", "start"):
        assert any(re.search(rf"{PLACE} 'a/b': {name} is ", line) for line in lines)


# ---------------------------------------------------------------------------------------------
# Two of one name


@pytest.mark.parametrize("again", [one, other])
def test_two_flows_of_one_name_conflict_with_both_places_named(
    make_app: MakeApp, declare: Declare, again: Any
) -> None:
    def configure(config: Configurator) -> None:
        declare(config, one, {"name": "same", "every": "5m"})
        declare(config, again, {"name": "same", "every": "10m"})

    with pytest.raises(exceptions.ConfigurationConflictError) as caught:
        make_app(configure=configure)

    [line] = str(caught.value).splitlines()
    assert isinstance(caught.value, DeclarationError)
    assert len(re.findall(r"\w+\.py, line \d+", line)) == 2
    assert re.search(PLACE + " 'same': ", line)
    assert "rename one of them" in line


@pytest.mark.parametrize("levels", [1, 2])
def test_two_flows_of_one_name_conflict_across_levels_of_inclusion(
    make_app: MakeApp, declare: Declare, levels: int
) -> None:
    def included(config: Configurator) -> None:
        declare(config, one, {"name": "same", "every": "5m"})

    def configure(config: Configurator) -> None:
        config.add_flow(other, name="same", every="5m")
        config.include(included if levels == 1 else lambda config: config.include(included))

    with pytest.raises(DeclarationError) as caught:
        make_app(configure=configure)

    line = configure.__code__.co_firstlineno + 1
    assert f"{__file__}, line {line} declares a flow of this name already" in str(caught.value)
    assert re.search(PLACE, str(caught.value))


# ---------------------------------------------------------------------------------------------
# What a scan would ignore


def test_any_other_error_of_a_declaration_stops_the_start_too(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_function: object) -> str:
        message = "no doc"
        raise ValueError(message)

    monkeypatch.setattr(inspect, "getdoc", fail)

    assert "flow 'one': cannot be declared: ValueError: no doc" in refusal(
        make_app, one, every="5m"
    )
