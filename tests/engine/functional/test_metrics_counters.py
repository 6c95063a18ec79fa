"""The counters of a flow: each end of a run counts once, and agrees with the history."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, literal_column, select, update
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlow, DataFlowRun

from ..conftest import DATABASE, FakeClock, MakeApp, heartbeat_of
from ..delivery import EXECUTOR
from ..factories import NOON, data_flow, data_flow_run
from ..notes import Note
from .operated import SECRET, as_operator, row_of
from .scraping import counters, counts_of, scrape
from .test_backfill import Backfill, backfill

__all__ = ["backfill"]  # a fixture
Post = Callable[..., Any]
MANY = 24
NAMES = (
    *("success_count", "success_seconds", "failure_count", "failure_seconds"),
    *("reaped_count", "redelivered_count"),
)


def idle(_run: Run) -> None:
    """Do nothing."""


def writing(run: Run) -> None:
    """Write one row."""
    run.session.execute(insert(Note).values(name=run.flow_name, mark=f"run {run.id}"))


def failing(_run: Run) -> None:
    """Fail."""
    raise LookupError("no such bird")


def history(dbsession: Session, name: str) -> dict[str, float]:
    """Count and sum the runs of a flow that the history has."""
    dbsession.rollback()
    found = dict.fromkeys(NAMES, 0.0)
    runs = select(DataFlowRun).join(DataFlowRun.data_flow).where(DataFlow.name == name)
    for run in dbsession.scalars(runs):
        prefix = {"success": "success", "failed": "failure"}.get(run.status)
        if prefix:
            found[f"{prefix}_count"] += 1
            found[f"{prefix}_seconds"] += run.duration or 0
        found["reaped_count"] += run.error_type == "LeaseExpired"
        found["redelivered_count"] += run.redeliveries
    return found


def assert_agreement(dbsession: Session, app: TestApp, *names: str) -> None:
    """Compare the counters that the application reports with the flows' rows and the history."""
    samples = scrape(app)
    for name in names:
        expected = pytest.approx(history(dbsession, name))
        assert counts_of(row_of(dbsession, name)) == expected, name
        assert counters(samples, name) == expected, name


@pytest.mark.usefixtures("notes")
def test_runs_in_batches_and_on_their_own_are_counted(
    make_app: MakeApp, post: Post, dbsession: Session, clock: FakeClock
) -> None:
    app = make_app(idle, writing, failing, **SECRET, **{"heartbeat.workers": "8"})
    names = [f"flow {number}" for number in range(MANY)]
    dbsession.add_all(data_flow(name=name, handler="idle") for name in names)
    dbsession.commit()

    for _ in range(3):
        post(app)
        clock.advance(300)

    assert row_of(dbsession, "writing").success_count == 3
    assert row_of(dbsession, "failing").failure_count == 3
    assert {row_of(dbsession, name).success_count for name in names} == {3}
    assert_agreement(dbsession, app, "idle", "writing", "failing", *names)


def test_each_attempt_counts(
    make_app: MakeApp, post: Post, dbsession: Session, clock: FakeClock
) -> None:
    app = make_app((failing, {"every": "1h", "retries": 2, "retry_delay": "1m"}), **SECRET)
    for _ in range(3):
        post(app)
        clock.advance(300)

    row = row_of(dbsession, "failing")
    assert (row.failure_count, row.success_count) == (3, 0)
    assert_agreement(dbsession, app, "failing")


def test_a_run_that_is_reaped_counts_as_failed_and_as_reaped(
    make_app: MakeApp, post: Post, dbsession: Session, clock: FakeClock
) -> None:
    app = make_app((idle, {"every": "1h"}), **SECRET)
    post(app)
    lost = {"status": "in_progress", "claim_id": "of another process", "started_at": NOON}
    lost["lease_expires_at"] = NOON + timedelta(seconds=10)
    dbsession.add(data_flow_run(data_flow_id=row_of(dbsession, "idle").id, **lost))
    dbsession.commit()
    clock.advance(20)

    assert post(app).json["runs_reaped"] == 1

    row = row_of(dbsession, "idle")
    assert (row.success_count, row.failure_count, row.reaped_count) == (1, 1, 1)
    assert row.failure_seconds == 21  # the second look comes a second later
    assert_agreement(dbsession, app, "idle")


def test_a_pending_run_that_is_cancelled_counts_as_failed(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    app = make_app((idle, {"every": "1h"}), **SECRET)
    post(app)
    dbsession.add(data_flow_run(data_flow_id=row_of(dbsession, "idle").id, trigger="schedule"))
    dbsession.commit()

    as_operator(app)("PATCH", "/flows/idle", {"enabled": False}, status=200)

    row = row_of(dbsession, "idle")
    assert (row.success_count, row.failure_count, row.failure_seconds) == (1, 1, 0)
    assert_agreement(dbsession, app, "idle")
    as_operator(app)("DELETE", "/flows/idle", status=204)
    assert counters(scrape(app), "idle") == dict.fromkeys(NAMES)


def test_a_run_that_was_released_counts_only_when_it_ends(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    app = make_app((idle, {"every": "1h"}), **SECRET)
    post(app)
    released = data_flow_run(data_flow_id=row_of(dbsession, "idle").id, trigger="schedule")
    dbsession.add(released)
    dbsession.commit()
    assert_agreement(dbsession, app, "idle")

    post(app)

    assert row_of(dbsession, "idle").success_count == 2
    assert_agreement(dbsession, app, "idle")


def test_the_runs_of_a_backfill_are_counted(
    backfill: Backfill, make_app: MakeApp, dbsession: Session
) -> None:
    backfill("2026-02-01", "2026-02-04")

    assert row_of(dbsession, "work").success_count == 3
    assert_agreement(dbsession, make_app(**SECRET), "work")


def test_a_run_that_has_lost_its_claim_counts_once(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    def lose_claim(run: Run) -> None:
        with heartbeat_of(app).session() as session:
            ours = update(DataFlowRun).where(DataFlowRun.id == run.id)
            session.execute(ours.values(claim_id="of another process"))

    app = make_app((lose_claim, {"every": "1h"}), **SECRET)
    # With Celery, a beat sees that another process still executes it.
    post(app, status=200 if EXECUTOR == "local" else 202)

    row = row_of(dbsession, "lose_claim")
    assert (row.success_count, row.failure_count) == (0, 0)
    assert_agreement(dbsession, app, "lose_claim")


def test_removed_history_lowers_no_counter(
    make_app: MakeApp, post: Post, dbsession: Session, clock: FakeClock
) -> None:
    limits = {"heartbeat.keep_days": "1", "heartbeat.keep_runs": "1"}
    app = make_app(idle, failing, **SECRET, **limits)
    for _ in range(4):
        post(app)
        clock.advance(300)
    before = scrape(app)
    clock.advance(3 * 86_400)
    for _ in range(3):  # the first one prunes, and counts one run more
        post(app)

    left = dbsession.scalar(select(func.count()).select_from(DataFlowRun))

    assert left == 2, "the history was not removed"
    after = scrape(app)
    assert counters(before, "idle")["success_count"] == 4
    assert counters(before, "failing")["failure_count"] == 4
    for name in ("idle", "failing"):
        assert counters(after, name) == counts_of(row_of(dbsession, name))
    assert counters(after, "idle")["success_count"] == 5
    assert counters(after, "failing")["failure_count"] == 5


# What a database stores in these columns, and no one can read or add to.
ODD_COUNTS = {
    "sqlite": {
        "success_count": ["'x'", "x'ff'", "1.5", "9223372036854775807"],
        "success_seconds": ["'x'", "x'ff'", "9e999", "-9e999"],
        "failure_count": ["'x'", "9223372036854775807"],
        "failure_seconds": ["'x'", "9e999"],
        "reaped_count": ["'x'", "-1"],
        "redelivered_count": ["'x'", "x'ff'", "-1"],
    },
    "postgresql": {
        "success_count": ["9223372036854775807", "-1"],
        "success_seconds": ["'NaN'", "'Infinity'", "'-Infinity'", "1.7e308"],
        "failure_count": ["9223372036854775807"],
        "failure_seconds": ["'NaN'"],
        "redelivered_count": ["9223372036854775807", "-1"],
    },
    "mysql": {
        "success_count": ["9223372036854775807", "-1"],
        "success_seconds": ["1.7e308"],
        "failure_count": ["9223372036854775807"],
    },
}[DATABASE]


@pytest.mark.parametrize(
    "odd", [(name, value) for name, values in ODD_COUNTS.items() for value in values]
)
@pytest.mark.usefixtures("notes")
def test_odd_counts_stop_neither_a_scrape_nor_a_run(
    make_app: MakeApp, post: Post, dbsession: Session, clock: FakeClock, odd: tuple[str, str]
) -> None:
    app = make_app(idle, writing, failing, **SECRET)
    without_labels = make_app(**SECRET, **{"heartbeat.metrics_flows": "0"})
    post(app)
    dbsession.execute(update(DataFlow).values({odd[0]: literal_column(odd[1])}))
    dbsession.commit()
    scrape(app)
    scrape(without_labels)
    clock.advance(300)

    reply = post(app).json

    assert (reply["flows_succeeded"], reply["flows_failed"]) == (2, 1)
    dbsession.rollback()
    ended = dbsession.scalars(select(DataFlowRun.status).order_by(DataFlowRun.id)).all()
    assert sorted(ended) == ["failed"] * 2 + ["success"] * 4
    scrape(app)
    scrape(without_labels)
