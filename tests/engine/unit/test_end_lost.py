"""The end of a run whose process did not end it."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from data_flows.heartbeat import Heartbeat
from data_flows.heartbeat.errors import LeaseExpired
from data_flows.heartbeat.models import DataFlow, DataFlowRun
from data_flows.heartbeat.runs.finish import end_lost
from data_flows.heartbeat.runs.retry import MAX_ATTEMPTS

from ..conftest import FakeClock, MakeApp, heartbeat_of
from ..factories import NOON, data_flow, data_flow_run

LATER = NOON + timedelta(seconds=7)


@pytest.fixture
def heartbeat(make_app: MakeApp, clock: FakeClock) -> Heartbeat:
    """Make the heartbeat of an application with a flow that retries lost runs and one that not."""
    clock.time = LATER
    return heartbeat_of(
        make_app(
            (lambda _run: None, {"name": "again", "on_lost": "retry"}),
            (lambda _run: None, {"name": "once"}),
        )
    )


def in_progress(dbsession: Session, handler: str, **columns: Any) -> DataFlowRun:
    """Store a run that is in progress since noon, at the slot of noon."""
    run = data_flow_run(
        data_flow=data_flow(handler=handler),
        status="in_progress",
        trigger="schedule",
        claim_id="claim",
        started_at=NOON,
        window_start=NOON - timedelta(minutes=5),
        window_end=NOON,
        missed_slots=2,
        **{"scheduled_for": NOON, **columns},
    )
    dbsession.add(run)
    dbsession.commit()
    dbsession.refresh(run)
    return run


def stored(dbsession: Session) -> list[DataFlowRun]:
    dbsession.rollback()
    return list(dbsession.scalars(select(DataFlowRun).order_by(DataFlowRun.id)))


def test_a_lost_run_fails(heartbeat: Heartbeat, dbsession: Session) -> None:
    run = in_progress(dbsession, "once")

    assert end_lost(heartbeat, run, LeaseExpired("gone"))

    [row] = stored(dbsession)
    assert (row.status, row.error_type, row.error_message) == ("failed", "LeaseExpired", "gone")
    assert (row.ended_at, row.duration) == (LATER, 7)
    assert (row.data_flow.last_run_status, row.data_flow.last_run_at) == ("failed", LATER)


def test_the_slot_is_due_again_with_all_that_belongs_to_it(
    heartbeat: Heartbeat, dbsession: Session
) -> None:
    run = in_progress(dbsession, "again")

    assert end_lost(heartbeat, run, LeaseExpired("gone"))

    lost, again = stored(dbsession)
    assert (lost.status, again.status, again.trigger) == ("failed", "pending", "retry")
    assert (again.scheduled_for, again.attempt, again.missed_slots) == (NOON, 2, 2)
    assert (again.window_start, again.window_end) == (lost.window_start, lost.window_end)
    assert (again.claim_id, again.lease_expires_at, again.not_before) == (None, None, None)


@pytest.mark.parametrize(
    "columns",
    [{"attempt": MAX_ATTEMPTS}, {"scheduled_for": None}],
    ids=["the last attempt", "no slot"],
)
def test_some_runs_have_no_next_attempt(
    heartbeat: Heartbeat, dbsession: Session, columns: dict[str, Any]
) -> None:
    run = in_progress(dbsession, "again", **columns)

    assert end_lost(heartbeat, run, LeaseExpired("gone"))

    assert [row.status for row in stored(dbsession)] == ["failed"]


def test_a_flow_that_was_disabled_meanwhile_has_no_next_attempt(
    heartbeat: Heartbeat, dbsession: Session
) -> None:
    run = in_progress(dbsession, "again")
    run.data_flow.enabled = False
    dbsession.commit()
    dbsession.refresh(run)

    assert end_lost(heartbeat, run, LeaseExpired("gone"))

    assert [row.status for row in stored(dbsession)] == ["failed"]


def test_a_flow_that_no_code_registers_has_no_next_attempt(
    heartbeat: Heartbeat, dbsession: Session
) -> None:
    run = in_progress(dbsession, "forgotten")

    assert end_lost(heartbeat, run, LeaseExpired("gone"))

    assert [row.status for row in stored(dbsession)] == ["failed"]


def test_what_is_not_ours_to_end_is_left_alone(heartbeat: Heartbeat, dbsession: Session) -> None:
    run = in_progress(dbsession, "again")
    dbsession.expunge(run)

    assert not end_lost(heartbeat, run, LeaseExpired("gone"), lease=LATER)
    run.claim_id = "another"
    assert not end_lost(heartbeat, run, LeaseExpired("gone"))
    assert [row.status for row in stored(dbsession)] == ["in_progress"]

    dbsession.execute(delete(DataFlow))
    dbsession.commit()
    assert not end_lost(heartbeat, run, LeaseExpired("gone"))


def test_a_database_that_could_not_be_written_for_long_ends_nothing(
    heartbeat: Heartbeat, dbsession: Session, clock: FakeClock
) -> None:
    run = in_progress(dbsession, "once")
    monotonic = iter([0.0, 0.6])
    clock.monotonic = lambda: next(monotonic)  # type: ignore[method-assign]  # waits for a lock

    assert not end_lost(heartbeat, run, LeaseExpired("gone"), patience=0.5)

    assert [row.status for row in stored(dbsession)] == ["in_progress"]
