"""How code declares flows: by the decorator, which a scan finds, and by the directive."""

import functools
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationConflictError
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlow, DataFlowRun

from ..conftest import FakeClock, MakeApp, heartbeat_of
from ..entrances import Declare, both_entrances
from ..factories import NOON
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


@both_entrances
def test_any_callable_may_be_declared(make_app: MakeApp, post: Post, dbsession: Session) -> None:
    part = functools.partial(other)

    post(make_app((one, {"every": "2h"}), (part, {"name": "part", "every": "2h"})))

    names = select(DataFlow.name, DataFlow.run_interval).order_by(DataFlow.name)
    assert dbsession.execute(names).all() == [("one", 7200), ("part", 7200)]


@both_entrances
def test_flows_are_listed_by_the_introspector(make_app: MakeApp, declare: Declare) -> None:
    introspectors: list[Any] = []

    def configure(config: Configurator) -> None:
        declare(config, one, {"every": "2h"})
        config.commit()
        introspectors.append(config.introspector)

    make_app(configure=configure)

    [entry] = introspectors[0].get_category("data flows")
    assert entry["introspectable"].title == "one"
    assert entry["introspectable"]["function"] is one


@both_entrances
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


@both_entrances
def test_a_new_flow_is_due_at_once_or_after_one_interval(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app(one, (other, {"start": "next"}))

    at_once = post(app).json
    clock.advance(300)
    after_one_interval = post(app).json

    assert at_once["flows_triggered"] == 1
    assert after_one_interval["flows_triggered"] == 2


@both_entrances
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


@both_entrances
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


@both_entrances
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
    reported = "region is 5: Input should be a valid string; limit is 'many': "
    assert reported in str(run.error_message)


# ---------------------------------------------------------------------------------------------
# Several scans


def test_a_decorated_and_a_plain_flow_of_one_name_conflict(make_app: MakeApp) -> None:
    def configure(config: Configurator) -> None:
        config.add_flow(one, name="count_birds", every="5m")
        config.include(scan)

    with pytest.raises(ConfigurationConflictError, match="count_birds"):
        make_app(configure=configure)


@pytest.mark.parametrize("first", [scan, lambda config: config.include(scan)])
def test_what_is_scanned_twice_is_still_one_flow(
    make_app: MakeApp, first: Callable[[Configurator], None]
) -> None:
    def configure(config: Configurator) -> None:
        first(config)
        config.scan(declared)

    assert "count_birds" in heartbeat_of(make_app(configure=configure)).flows


# ---------------------------------------------------------------------------------------------
# A schedule that changes in the code


@both_entrances
def test_a_schedule_that_is_changed_in_code_is_taken_over(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    post(make_app(one))

    post(make_app((one, {"every": "2h"})))

    row = dbsession.scalars(select(DataFlow)).one()
    assert (row.run_interval, row.declared_schedule) == (7200, "every 2h")
    assert row.next_run_at == NOON + timedelta(hours=2)


@both_entrances
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


@both_entrances
def test_a_schedule_is_taken_over_beside_a_configuration_that_cannot_be_read(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    post(make_app(one, other))
    # Only SQLite stores invalid JSON.
    broken = "{oops" if dbsession.get_bind().dialect.name == "sqlite" else "[]"
    dbsession.execute(text("UPDATE data_flows SET configuration = :c"), {"c": broken})
    dbsession.commit()

    reply = post(make_app((one, {"every": "2h"}), (other, {"every": "2h"}))).json

    assert reply["flows_due"] == 0
    assert dbsession.scalars(select(DataFlow.run_interval)).all() == [7200, 7200]


@both_entrances
def test_a_flow_that_is_no_longer_declared_keeps_its_row(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    post(make_app(one, other))

    reply = post(make_app(one)).json

    assert reply["flows_due"] == 0
    assert len(dbsession.scalars(select(DataFlow.id)).all()) == 2
