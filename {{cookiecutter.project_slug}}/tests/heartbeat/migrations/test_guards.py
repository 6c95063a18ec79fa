"""What the database itself refuses, and keeps, whoever writes to it: raw SQL, no engine between."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError
from sqlalchemy.orm import Session

from {{cookiecutter.project_slug}}.heartbeat.models import (
    DataFlow,
    DataFlowRun,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)

AddRun = Callable[..., None]


@pytest.fixture
def add_run(dbsession: Session) -> AddRun:
    """Insert a run that has ended, of one flow, with what the test says."""
    dbsession.execute(
        insert(DataFlow).values(
            name="f", handler="f", run_interval=60, created_at=NOW, updated_at=NOW
        )
    )
    dbsession.commit()
    flow_id = dbsession.scalars(select(DataFlow.id)).one()

    def add(**values: Any) -> None:
        row = {
            "data_flow_id": flow_id,
            "status": "success",
            "trigger": "schedule",
            "attempt": 1,
            "created_at": NOW,
            "updated_at": NOW,
            **values,
        }
        dbsession.execute(insert(DataFlowRun).values(row))
        dbsession.commit()

    return add


def test_a_second_run_of_a_slot_and_attempt_is_refused(add_run: AddRun) -> None:
    add_run(scheduled_for=NOW, status="failed")

    with pytest.raises(IntegrityError):
        add_run(scheduled_for=NOW, status="success")


def test_a_second_attempt_and_another_slot_are_taken(add_run: AddRun, dbsession: Session) -> None:
    add_run(scheduled_for=NOW)
    add_run(scheduled_for=NOW, attempt=2)
    add_run(scheduled_for=NOW + timedelta(microseconds=1))

    assert len(dbsession.scalars(select(DataFlowRun.id)).all()) == 3


@pytest.mark.parametrize("first", ["pending", "in_progress"])
@pytest.mark.parametrize("second", ["pending", "in_progress"])
def test_a_second_active_run_is_refused(add_run: AddRun, first: str, second: str) -> None:
    add_run(status=first)

    with pytest.raises(IntegrityError):
        add_run(status=second)


def test_a_run_that_becomes_active_beside_another_is_refused(
    add_run: AddRun, dbsession: Session
) -> None:
    add_run(status="in_progress")
    add_run(status="failed")
    failed = dbsession.scalars(select(DataFlowRun).filter_by(status="failed")).one()

    failed.status = "pending"

    with pytest.raises(IntegrityError):
        dbsession.commit()


def test_any_number_of_ended_and_manual_runs_is_taken(add_run: AddRun, dbsession: Session) -> None:
    for status in ("success", "success", "failed", "failed", "in_progress"):
        add_run(status=status, trigger="manual")

    assert len(dbsession.scalars(select(DataFlowRun.id)).all()) == 5


def test_an_active_run_that_has_ended_makes_room_for_the_next(
    add_run: AddRun, dbsession: Session
) -> None:
    add_run(status="in_progress")
    dbsession.scalars(select(DataFlowRun)).one().status = "success"
    dbsession.commit()

    add_run(status="pending")

    assert len(dbsession.scalars(select(DataFlowRun.id)).all()) == 2


def test_an_end_before_the_start_is_refused(add_run: AddRun) -> None:
    add_run(started_at=NOW, ended_at=NOW)

    with pytest.raises(DBAPIError):  # what kind of it differs
        add_run(started_at=NOW, ended_at=NOW - timedelta(microseconds=1))


@pytest.mark.parametrize("values", [{"status": "done"}, {"status": ""}, {"trigger": "cron"}])
def test_an_unknown_status_or_trigger_is_refused(add_run: AddRun, values: dict[str, str]) -> None:
    with pytest.raises(DBAPIError):
        add_run(**values)


def test_a_run_of_no_flow_is_refused(add_run: AddRun) -> None:
    with pytest.raises(IntegrityError):
        add_run(data_flow_id=-1)


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC),
        datetime(2026, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        datetime(2026, 3, 1, 0, 30, tzinfo=timezone(timedelta(hours=-11))),
    ],
)
def test_times_come_back_as_the_same_moment_in_utc(
    add_run: AddRun, dbsession: Session, moment: datetime
) -> None:
    add_run(scheduled_for=moment)

    stored = dbsession.scalars(select(DataFlowRun.scheduled_for)).one()

    assert stored == moment
    assert stored is not None
    assert stored.tzinfo is UTC


def test_a_time_without_zone_is_refused(add_run: AddRun) -> None:
    with pytest.raises(StatementError, match="no time zone"):
        add_run(scheduled_for=NOW.replace(tzinfo=None))
