"""The count `flows_due`: slots that have come, and pending runs."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlow, DataFlowBeat, DataFlowRun

from ..conftest import FakeClock, MakeApp, heartbeat_of
from ..factories import NOON, data_flow, data_flow_run
from .operated import SECRET, as_operator, count

Post = Callable[..., Any]
COUNTS = ("flows_due", "flows_triggered", "flows_succeeded")


def counts_of(reply: dict[str, Any]) -> tuple[int, ...]:
    return tuple(reply[name] for name in COUNTS)


@pytest.mark.parametrize(
    ("run", "flow"),
    [
        ({"trigger": "retry", "attempt": 2, "scheduled_for": NOON}, {}),
        ({"trigger": "retry", "attempt": 2, "scheduled_for": NOON, "not_before": NOON}, {}),
        ({"trigger": "manual"}, {}),
        ({"trigger": "manual"}, {"enabled": False}),
        ({"trigger": "backfill", "window_start": NOON, "window_end": NOON}, {}),
        ({"trigger": "backfill", "window_start": NOON, "window_end": NOON}, {"enabled": False}),
        ({"trigger": "schedule", "scheduled_for": NOON}, {}),  # as a released run
    ],
)
def test_a_flow_with_a_run_that_may_start_is_due(
    make_app: MakeApp,
    post: Post,
    dbsession: Session,
    run: dict[str, Any],
    flow: dict[str, Any],
) -> None:
    later = NOON + timedelta(hours=1)
    row = data_flow(name="waits", handler="count", next_run_at=later, **flow)
    dbsession.add(data_flow_run(data_flow=row, **run))
    dbsession.commit()

    reply = post(make_app(count)).json

    assert counts_of(reply) == (2, 2, 2), "count itself, too"
    assert dbsession.scalars(select(DataFlowBeat.flows_due)).one() == 2


@pytest.mark.parametrize(
    ("run", "flow"),
    [
        ({"trigger": "retry", "attempt": 2, "not_before": NOON + timedelta(minutes=1)}, {}),
        ({"trigger": "retry", "attempt": 2}, {"enabled": False}),
        ({"trigger": "manual"}, {"handler": "gone"}),
    ],
)
def test_a_run_that_may_not_start_yet_is_not_due(
    make_app: MakeApp,
    post: Post,
    dbsession: Session,
    run: dict[str, Any],
    flow: dict[str, Any],
) -> None:
    row = data_flow(**{"name": "waits", "handler": "count", **flow})
    dbsession.add(data_flow_run(data_flow=row, scheduled_for=NOON, **run))
    dbsession.commit()

    assert counts_of(post(make_app((count, {"start": "next"}))).json) == (0, 0, 0)


def test_a_retry_is_due_when_its_delay_is_over(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    def fail_once(run: Run) -> None:
        if run.attempt == 1:
            raise LookupError

    app = make_app((fail_once, {"retries": 1, "retry_delay": "1m", "every": "1h"}))

    replies = [post(app).json]
    for _ in range(3):
        clock.advance(30)
        replies.append(post(app).json)

    assert [*map(counts_of, replies)] == [(1, 1, 0), (0, 0, 0), (1, 1, 1), (0, 0, 0)]


@pytest.mark.local_executor("a web process has no workers with Celery")
def test_a_run_that_was_asked_for_without_a_free_worker_is_due(
    make_app: MakeApp, post: Post
) -> None:
    app = make_app((count, {"start": "next"}), **SECRET)
    with heartbeat_of(app).executor.reserve():
        as_operator(app)("POST", "/flows/count/runs", status=202)

    assert counts_of(post(app).json) == (1, 1, 1)


@pytest.mark.parametrize("options", [{"on_lost": "retry"}, {"every": "2m"}])
def test_what_is_due_because_its_run_was_reaped_is_counted(
    make_app: MakeApp, post: Post, dbsession: Session, clock: FakeClock, options: dict[str, str]
) -> None:
    app = make_app((count, options), **{"heartbeat.lease": "60"})
    post(app)
    run = dbsession.scalars(select(DataFlowRun)).one()
    run.status, run.ended_at, run.lease_expires_at = "in_progress", None, NOON
    dbsession.commit()
    clock.advance(120)

    reply = post(app).json

    assert reply["runs_reaped"] == 1
    assert counts_of(reply) == (1, 1, 1)


def test_held_flows_are_not_due(make_app: MakeApp, post: Post, dbsession: Session) -> None:
    dbsession.add(data_flow(name="other", handler="other", next_run_at=NOON + timedelta(days=1)))
    dbsession.commit()
    app = make_app(
        (count, {"name": "other"}),
        (count, {"name": "after", "after": ["other"]}),
        (count, {"name": "when", "when": lambda _run: False}),
        count,
    )

    assert counts_of(post(app).json) == (1, 1, 1)
    assert len(dbsession.scalars(select(DataFlow.id)).all()) == 4
