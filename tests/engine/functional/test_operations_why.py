"""`why` over HTTP: one sentence with the next run of a flow, or what prevents it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlow

from ..conftest import FakeClock, MakeApp, heartbeat_of
from ..factories import NOON, data_flow, data_flow_beat, data_flow_run
from .operated import AS_OPERATOR, SECRET

Why = Callable[..., str]


def count(_run: Run) -> None:
    """Count birds."""


def not_now(_run: Run) -> str:
    """Hold the flow back."""
    return "the tide is out"


@pytest.fixture
def app(make_app: MakeApp) -> TestApp:
    """Make an application with the handler `count`, and with some that wait for something."""
    return make_app(
        (count, {"start": "next", "retries": 3}),
        (count, {"name": "at night", "between": "22:00-06:00"}),
        (count, {"name": "in turn", "after": ["count", "at night"]}),
        (count, {"name": "held", "when": not_now}),
        **SECRET,
    )


@pytest.fixture
def flow(app: TestApp) -> Callable[[str], dict[str, Any]]:
    """Look at a flow as the operator."""

    def look(name: str) -> dict[str, Any]:
        path = f"/heartbeat/flows/{name}".rstrip("/")
        members: dict[str, Any] = app.get(path, headers=AS_OPERATOR).json
        return members

    return look


@pytest.fixture
def why(dbsession: Session, flow: Callable[[str], dict[str, Any]]) -> Why:
    """Store a flow with these columns, and perhaps a run, a minute after a beat; ask why."""

    def ask(run: dict[str, Any] | None = None, **columns: Any) -> str:
        dbsession.add(data_flow_beat(received_at=NOON - timedelta(minutes=1)))
        row = data_flow(name="birds", **{"handler": "count", "created_at": NOON, **columns})
        dbsession.add(row)
        if run is not None:
            dbsession.add(data_flow_run(data_flow=row, id=7, **run))
        dbsession.commit()
        return str(flow("birds")["why"])

    return ask


LATER = NOON + timedelta(hours=1)
DUE = NOON - timedelta(seconds=30)
RUNNING = {"status": "in_progress", "started_at": DUE, "claim_id": "x", "lease_expires_at": LATER}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"next_run_at": LATER}, "Not due until 2026-03-01 13:00:00 UTC."),
        (
            {"next_run_at": LATER, "timezone": "Europe/Berlin"},
            "Not due until 2026-03-01 14:00:00 CET.",
        ),
        (
            {"next_run_at": DUE, "last_slot_at": DUE - timedelta(minutes=5)},
            "Due since 2026-03-01 11:59:30 UTC: the next beat runs it.",
        ),
        ({}, "Due since 2026-03-01 12:00:00 UTC: the next beat runs it."),
        (
            {"handler": "gone"},
            "Its handler 'gone' is not registered: no code in flows/ declares it.",
        ),
        (
            {"enabled": False, "disabled_reason": "paused from the command line: deploy"},
            "It is disabled: paused from the command line: deploy.",
        ),
        ({"enabled": False}, "It is disabled: no reason given."),
        ({"run": RUNNING}, "Run 7 has been running since 2026-03-01 11:59:30 UTC."),
        (
            {"run": RUNNING, "enabled": False},
            "Run 7 has been running since 2026-03-01 11:59:30 UTC.",
        ),
        ({"run": {}}, "Run 7 is pending: the next beat starts it."),
        ({"run": {}, "enabled": False}, "Run 7 is pending: the next beat starts it."),
        (
            {"run": {"trigger": "retry", "attempt": 2}, "enabled": False},
            "It is disabled: no reason given.",
        ),
        (
            {"run": {"trigger": "retry", "attempt": 3, "not_before": LATER}},
            "Retry 2 of 3 waits until 2026-03-01 13:00:00 UTC.",
        ),
        (
            {"run": {"trigger": "retry", "attempt": 3, "not_before": DUE}},
            "Run 7 is pending: the next beat starts it.",
        ),
    ],
)
def test_what_comes_next_is_said_in_a_sentence(
    why: Why, columns: dict[str, Any], expected: str
) -> None:
    assert why(**columns) == expected


SENT = {"sent_at": DUE, "claim_id": "x", "worker": "a"}
LAST_TIME = "the last time at 2026-03-01 11:59:30 UTC"


@pytest.mark.parametrize(
    ("run", "sent"),
    [
        (SENT, "at 2026-03-01 11:59:30 UTC"),
        ({**SENT, "redeliveries": 1}, f"and sent again once, {LAST_TIME}"),
        ({**SENT, "redeliveries": 2}, f"and sent again twice, {LAST_TIME}"),
        ({**SENT, "redeliveries": 12}, f"and sent again 12 times, {LAST_TIME}"),
    ],
)
def test_a_run_that_no_worker_has_begun_is_named(
    app: TestApp, why: Why, run: dict[str, Any], sent: str
) -> None:
    as_with_celery(app)

    assert why(run) == (
        f"Run 7 was handed to Celery {sent}, but no worker has begun it: is a worker running?"
    )


@pytest.mark.parametrize("run", [{}, {**SENT, "sent_at": NOON - timedelta(seconds=301)}])
def test_a_run_that_the_next_beat_sends_is_named(
    app: TestApp, why: Why, run: dict[str, Any]
) -> None:
    as_with_celery(app)

    assert why(run) == "Run 7 is pending: the next beat sends it to a worker."


def as_with_celery(app: TestApp) -> None:
    """Set the executor of an application, also where the package is not installed."""
    heartbeat = heartbeat_of(app)
    heartbeat.settings = heartbeat.settings.model_copy(update={"executor": "celery"})


def test_a_window_of_the_day_is_named(why: Why) -> None:
    assert why(handler="at night", next_run_at=NOON) == (
        "Not due until 2026-03-01 22:00:00 UTC, in its window 22:00-06:00."
    )


def test_the_flows_that_it_waits_for_are_named(
    flow: Callable[[str], dict[str, Any]], why: Why, dbsession: Session
) -> None:
    assert why(handler="in turn") == (
        "Due since 2026-03-01 12:00:00 UTC, but it waits for a success of count and at night."
    )

    for row in dbsession.scalars(select(DataFlow)):
        row.last_success_at = NOON
        row.last_success_started_at = NOON - timedelta(minutes=1)
        if row.name == "count":
            row.last_success_at = NOON - timedelta(minutes=2)
    dbsession.commit()

    assert str(flow("birds")["why"]).endswith(", but it waits for a success of count.")


def test_a_condition_that_holds_a_flow_is_named(
    app: TestApp, post: Callable[..., Any], flow: Callable[[str], dict[str, Any]]
) -> None:
    post(app)

    assert flow("held")["why"] == (
        "Due since 2026-03-01 12:00:00 UTC, but its condition holds it back: the tide is out."
    )


def test_a_scheduler_that_never_called_is_named(flow: Callable[[str], dict[str, Any]]) -> None:
    assert flow("count")["why"].startswith("No beat has come yet")


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [(10, "Not due until"), (12, "No beat has come for 12 minutes: check whether the scheduler")],
)
def test_a_scheduler_that_calls_no_more_is_named_after_twice_the_time_expected(
    why: Why, clock: FakeClock, minutes: int, expected: str
) -> None:
    clock.advance(60 * (minutes - 1))

    assert why(next_run_at=NOON + timedelta(days=1)).startswith(expected)


def test_the_next_slots_begin_with_the_one_that_is_due(
    why: Why, flow: Callable[[str], dict[str, Any]]
) -> None:
    next_run_at = NOON - timedelta(minutes=12)
    why(next_run_at=next_run_at, last_slot_at=next_run_at - timedelta(minutes=5))

    slots = flow("birds")["next_slots"]

    assert slots == [
        f"2026-03-01T{time}:00+00:00" for time in ("11:58", "12:03", "12:08", "12:13", "12:18")
    ]


def test_the_slots_of_cron_follow_the_clocks_of_its_zone(
    why: Why, clock: FakeClock, flow: Callable[[str], dict[str, Any]]
) -> None:
    clock.time = NOON.replace(day=28)
    night = NOON.replace(day=29, hour=1)
    why(run_interval=None, cron="0 3 * * *", timezone="Europe/Berlin", next_run_at=night)

    slots = flow("birds")["next_slots"]

    assert slots[:2] == ["2026-03-29T01:00:00+00:00", "2026-03-30T01:00:00+00:00"]
    assert len(slots) == 5


@pytest.mark.parametrize(
    "columns",
    [
        {"run_interval": None, "cron": "every now and then"},
        {"run_interval": None, "cron": "0 3 * * *", "timezone": "Mars"},
    ],
)
def test_a_schedule_that_cannot_be_read_hides_no_flow(
    why: Why, flow: Callable[[str], dict[str, Any]], columns: dict[str, Any]
) -> None:
    assert why(**columns) == "Its schedule cannot be read: give it another one."
    assert flow("birds")["next_slots"] == []
    assert len(flow("")["flows"]) == 5


def test_times_are_in_utc_where_the_zone_is_invalid(why: Why) -> None:
    assert why(next_run_at=LATER, timezone="Mars") == "Not due until 2026-03-01 13:00:00 UTC."
