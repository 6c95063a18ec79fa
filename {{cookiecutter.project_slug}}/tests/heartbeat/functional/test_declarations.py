"""How code declares flows: the decorator, the directive, and what each refuses."""

import functools
import math
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationConflictError, ConfigurationError
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from {{cookiecutter.project_slug}}.heartbeat import (
    Run,
)
from {{cookiecutter.project_slug}}.heartbeat.errors import (
    DeclarationError,
)
from {{cookiecutter.project_slug}}.heartbeat.models import (
    DataFlow,
    DataFlowRun,
)

from ...factories import NOON
from ..conftest import FakeClock, MakeApp, heartbeat_of
from . import declared

Post = Callable[..., Any]


def one(_run: Run) -> None:
    """Do the one thing."""


def other(_run: Run) -> None:
    """Do the other thing."""


def scan(config: Configurator) -> None:
    config.scan(declared)


# ---------------------------------------------------------------------------------------------
# What is declared


def test_decorated_functions_are_found_by_scan(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    post(make_app(configure=scan))

    rows = dbsession.scalars(select(DataFlow).order_by(DataFlow.name)).all()
    assert [(row.name, row.handler, row.run_interval) for row in rows] == [
        ("count_birds", "count_birds", 3600),
        ("feed birds", "feed birds", 90),
    ]
    assert [row.description for row in rows] == ["Count the birds.", "Bread, no butter"]
    assert [row.configuration for row in rows] == [{"region": "eu"}, {}]
    assert [row.last_run_status for row in rows] == ["success", None]


def test_a_decorated_function_knows_where_it_is_declared(make_app: MakeApp) -> None:
    flows = heartbeat_of(make_app(configure=scan)).flows

    line = declared.count_birds.__code__.co_firstlineno
    assert flows["count_birds"].place == f"{declared.__file__}, line {line}"


def test_a_decorated_function_is_still_the_function(make_app: MakeApp) -> None:
    assert heartbeat_of(make_app(configure=scan)).flows["feed birds"].function is declared.feed
    assert declared.feed.__name__ == "feed"


def test_a_callable_is_declared_by_calling_the_directive(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    def configure(config: Configurator) -> None:
        config.add_flow(one, every="2h")
        config.add_flow(functools.partial(other), name="part", every="2h")

    post(make_app(configure=configure))

    names = select(DataFlow.name, DataFlow.run_interval).order_by(DataFlow.name)
    assert dbsession.execute(names).all() == [("one", 7200), ("part", 7200)]


def test_flows_are_listed_by_the_introspector(make_app: MakeApp) -> None:
    introspectors: list[Any] = []

    def configure(config: Configurator) -> None:
        config.add_flow(one, every="2h")
        config.commit()
        introspectors.append(config.introspector)

    make_app(configure=configure)

    [entry] = introspectors[0].get_category("data flows")
    assert entry["introspectable"].title == "one"
    assert entry["introspectable"]["function"] is one


@pytest.mark.parametrize(
    ("every", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        (" 5 m ", 300),
        ("2h", 7200),
        ("1d", 86400),
        ("90", 90),
        (90, 90),
        (timedelta(minutes=3), 180),
    ],
)
def test_an_interval_is_written_in_any_of_these_forms(
    make_app: MakeApp, post: Post, dbsession: Session, every: object, seconds: int
) -> None:
    post(make_app((one, {"every": every})))

    assert dbsession.scalars(select(DataFlow.run_interval)).one() == seconds


def test_an_async_function_is_refused_with_the_mend(make_app: MakeApp) -> None:
    async def later(_run: object) -> None:
        """Be no flow."""

    with pytest.raises(DeclarationError, match=r"is async.*asyncio\.run"):
        make_app(later)


def test_a_new_flow_is_due_at_once_or_after_one_interval(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app(one, (other, {"start": "next"}))

    at_once = post(app).json
    clock.advance(300)
    after_one_interval = post(app).json

    assert at_once["flows_triggered"] == 1
    assert after_one_interval["flows_triggered"] == 2


def test_the_configuration_that_is_declared_is_where_a_row_starts(
    make_app: MakeApp, post: Post, dbsession: Session, clock: FakeClock
) -> None:
    seen = []

    def note(run: Run) -> None:
        seen.append(run.configuration)

    post(make_app((note, {"configuration": {"limit": 10}})))
    dbsession.scalars(select(DataFlow)).one().configuration = {"limit": 20}
    dbsession.commit()
    clock.advance(300)
    post(make_app((note, {"configuration": {"limit": 30}})))

    assert seen == [{"limit": 10}, {"limit": 20}]


class Import(BaseModel):
    """What an import needs to know."""

    region: str
    limit: int = 10
    since: date = date(2026, 1, 1)


def test_the_configuration_may_be_a_model_whose_defaults_are_where_a_row_starts(
    make_app: MakeApp, post: Post, dbsession: Session, clock: FakeClock
) -> None:
    seen = []

    def note(run: Run) -> None:
        seen.append(run.configuration)

    app = make_app((note, {"configuration": Import}))
    incomplete = post(app).json
    row = dbsession.scalars(select(DataFlow)).one()
    started_with = row.configuration
    row.configuration = {"region": "eu", "since": "2026-02-01"}
    dbsession.commit()
    clock.advance(300)
    post(app)

    assert (incomplete["flows_failed"], started_with) == (1, {"limit": 10, "since": "2026-01-01"})
    assert seen == [Import(region="eu", limit=10, since=date(2026, 2, 1))]


def test_a_stored_configuration_that_does_not_fit_fails_the_run_with_errors_by_field(
    make_app: MakeApp, post: Post, dbsession: Session, clock: FakeClock
) -> None:
    app = make_app((one, {"configuration": Import, "start": "next"}))
    post(app)
    dbsession.scalars(select(DataFlow)).one().configuration = {"region": 5, "limit": "many"}
    dbsession.commit()
    clock.advance(300)
    post(app)

    run = dbsession.scalars(select(DataFlowRun)).one()
    assert (run.status, run.error_type) == ("failed", "ConfigurationError")
    told = "region is 5: Input should be a valid string; limit is 'many': "
    assert told in str(run.error_message)


# ---------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(
    "every",
    [
        0,
        -5,
        "",
        "0m",
        "5 minutes",
        "m",
        "1.5h",
        "1h30m",
        "9999999999d",
        1.5,
        True,
        None,
        [],
        timedelta(milliseconds=1500),
    ],
)
def test_what_is_no_interval_is_refused_with_place_and_example(
    make_app: MakeApp, every: object
) -> None:
    with pytest.raises(DeclarationError) as caught:
        make_app((one, {"every": every}))

    told = str(caught.value)
    assert "conftest.py, line " in told
    assert "'one'" in told
    assert repr(every) in told
    assert '"30s", "5m", "2h" or "1d"' in told


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "a\nb", "a\0b", "a ", " a", ".", "..", ".a", "x" * 201, 5, None]
)
def test_what_is_no_name_is_refused_with_place_and_example(make_app: MakeApp, name: object) -> None:
    with pytest.raises(DeclarationError) as caught:
        make_app((functools.partial(one), {"name": name}))

    told = str(caught.value)
    assert "conftest.py, line " in told
    assert "name is " in told
    assert "for example, import_orders" in told


@pytest.mark.parametrize("name", ["x", "x" * 200, "a b", "Vögel 🦉", "a.b-c_d.", "<&>"])
def test_any_other_text_is_a_name(
    make_app: MakeApp, post: Post, dbsession: Session, name: str
) -> None:
    post(make_app((one, {"name": name})))

    assert dbsession.scalars(select(DataFlow.name)).one() == name


@pytest.mark.parametrize("start", ["later", "", 5, None])
def test_a_start_that_is_neither_now_nor_next_is_refused(make_app: MakeApp, start: object) -> None:
    with pytest.raises(DeclarationError, match="'now' or 'next'"):
        make_app((one, {"start": start}))


def circle() -> dict[str, Any]:
    """Return a dict that contains itself."""
    value: dict[str, Any] = {}
    value["itself"] = value
    return value


@pytest.mark.parametrize(
    "configuration",
    [[], "text", 5, {"when": NOON}, {"rate": math.nan}, {"birds": {"owl"}}, circle()],
    ids=["list", "text", "number", "datetime", "NaN", "set", "circle"],
)
def test_a_configuration_that_is_no_json_object_is_refused_with_place_and_example(
    make_app: MakeApp, configuration: object
) -> None:
    with pytest.raises(DeclarationError) as caught:
        make_app((one, {"configuration": configuration}))

    told = str(caught.value)
    assert "conftest.py, line " in told
    assert "configuration is " in told
    assert "for example, {'region': 'eu'}" in told


@pytest.mark.parametrize(
    ("option", "value", "hook", "module"),
    [
        ("timeout", "10m", "execute_apart", "executors/child.py"),
        ("after", ["other"], "ask", "conditions.py"),
        ("when", one, "ask", "conditions.py"),
    ],
)
def test_an_option_is_refused_where_nothing_could_keep_it(
    make_app: MakeApp, option: str, value: object, hook: str, module: str
) -> None:
    def configure(config: Configurator) -> None:
        # As it is without the optional module.
        setattr(config.registry["heartbeat"], hook, None)
        config.add_flow(one, every="5m", **{option: value})

    with pytest.raises(DeclarationError) as caught:
        make_app(configure=configure)

    assert f"{__file__}, line " in str(caught.value)
    assert f"{option} is {value!r}: needs the optional module {module}" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cron": "61 * * * *"}, "cron is '61 * * * *': '61 * * * *' is no cron expression (Bad"),
        ({"cron": "0 3 * *"}, "(Wrong number of fields)"),
        ({"cron": "0 3 30 2 *"}, "(Bad day-of-month)"),
        ({"cron": "@daily", "timezone": "Berlin"}, "timezone is 'Berlin': 'Berlin' is no IANA"),
        ({"every": "5m", "between": "22-6"}, "between is '22-6': '22-6' is no window of the day"),
        ({"every": "5m", "cron": "@daily"}, "every is 300 and cron is '@daily': declare one of"),
        ({}, "every is None and cron is None: declare one of the two"),
        ({"cron": "0 12 * * *", "between": "22:00-06:00"}, "no time of '0 12 * * *' lies between"),
        ({"every": "5m", "catch_up": "twice"}, "catch_up is 'twice'"),
        ({"every": "5m", "grace": "soon"}, "grace is 'soon': 'soon' is no interval"),
        ({"every": "5m", "retries": -1}, "retries is -1"),
        ({"every": "5m", "retry_delay": 0}, "retry_delay is 0"),
        ({"every": "5m", "pause_after": 0}, "pause_after is 0"),
        ({"every": "5m", "when": "later"}, "when is 'later'"),
        ({"every": "5m", "after": "extract"}, "after is 'extract'"),
    ],
)
def test_what_cannot_work_is_refused_at_start_with_the_place(
    make_app: MakeApp, options: dict[str, Any], told: str
) -> None:
    def configure(config: Configurator) -> None:
        config.add_flow(one, **options)

    with pytest.raises(DeclarationError) as caught:
        make_app(configure=configure)

    assert f"{__file__}, line " in str(caught.value)
    assert told in str(caught.value)


def test_an_option_that_does_not_exist_is_refused_by_name(make_app: MakeApp) -> None:
    with pytest.raises(DeclarationError, match="evry: there is no such name"):
        make_app((one, {"evry": "5m"}))


def test_what_cannot_be_called_is_no_flow(make_app: MakeApp) -> None:
    with pytest.raises(DeclarationError, match="callable"):
        make_app(("text", {"name": "one"}))


def test_all_faults_of_a_declaration_are_told_together(make_app: MakeApp) -> None:
    with pytest.raises(DeclarationError) as caught:
        make_app((one, {"every": 0, "name": "a/b", "start": "later"}))

    assert all(f"  {name} is " in str(caught.value) for name in ("every", "name", "start"))


# ---------------------------------------------------------------------------------------------
# Two of one name


def test_two_flows_of_one_name_conflict_with_both_places_named(make_app: MakeApp) -> None:
    lines = []

    def configure(config: Configurator) -> None:
        config.add_flow(one, name="same", every="5m")
        config.add_flow(other, name="same", every="5m")
        lines.append(configure.__code__.co_firstlineno)

    with pytest.raises(ConfigurationConflictError) as caught:
        make_app(configure=configure)

    told = str(caught.value)
    assert "same" in told
    assert f"Line {lines[0] + 1} of file {__file__}" in told
    assert f"Line {lines[0] + 2} of file {__file__}" in told


def included(config: Configurator) -> None:
    """Declare a flow one level below."""
    config.add_flow(one, name="same", every="5m")


def included_deeper(config: Configurator) -> None:
    """Declare it two levels below."""
    config.include(included)


@pytest.mark.parametrize("include", [included, included_deeper])
def test_two_flows_of_one_name_conflict_across_levels_of_inclusion(
    make_app: MakeApp, include: Callable[[Configurator], None]
) -> None:
    def configure(config: Configurator) -> None:
        config.add_flow(other, name="same", every="5m")
        config.include(include)

    with pytest.raises(ConfigurationError) as caught:
        make_app(configure=configure)

    told = str(caught.value)
    assert f"Line {included.__code__.co_firstlineno + 2} of file {__file__}" in told
    assert f"Line {configure.__code__.co_firstlineno + 1} of file {__file__}" in told


def test_a_decorated_and_a_plain_flow_of_one_name_conflict(make_app: MakeApp) -> None:
    def configure(config: Configurator) -> None:
        config.add_flow(one, name="count_birds", every="5m")
        config.include(scan)

    with pytest.raises(ConfigurationError, match="count_birds"):
        make_app(configure=configure)


def test_what_is_scanned_on_two_levels_is_still_one_flow(make_app: MakeApp) -> None:
    def configure(config: Configurator) -> None:
        config.include(scan)
        config.scan(declared)

    assert "count_birds" in heartbeat_of(make_app(configure=configure)).flows


# ---------------------------------------------------------------------------------------------
# A schedule that changes in the code


def test_a_schedule_that_is_changed_in_code_is_taken_over(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    post(make_app(one))

    post(make_app((one, {"every": "2h"})))

    row = dbsession.scalars(select(DataFlow)).one()
    assert (row.run_interval, row.declared_schedule) == (7200, "every 2h")
    assert row.next_run_at == NOON + timedelta(hours=2)


def test_a_schedule_that_an_operator_changed_is_left_alone(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    post(make_app(one))
    row = dbsession.scalars(select(DataFlow)).one()
    row.run_interval = 60
    dbsession.commit()

    for every in ("5m", "2h", "3h"):
        post(make_app((one, {"every": every})))
        dbsession.refresh(row)

        assert row.run_interval == 60
        dbsession.rollback()


def test_a_schedule_is_taken_over_beside_a_configuration_that_cannot_be_read(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    post(make_app(one, other))
    # Only SQLite stores what is no JSON at all.
    broken = "{oops" if dbsession.get_bind().dialect.name == "sqlite" else "[]"
    dbsession.execute(text("UPDATE data_flows SET configuration = :c"), {"c": broken})
    dbsession.commit()

    reply = post(make_app((one, {"every": "2h"}), (other, {"every": "2h"}))).json

    assert reply["flows_due"] == 0
    assert dbsession.scalars(select(DataFlow.run_interval)).all() == [7200, 7200]


def test_a_flow_that_is_no_longer_declared_keeps_its_row(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    post(make_app(one, other))

    reply = post(make_app(one)).json

    assert reply["flows_due"] == 0
    assert len(dbsession.scalars(select(DataFlow.id)).all()) == 2
