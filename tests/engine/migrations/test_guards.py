"""What the database itself refuses and keeps: raw SQL, without the engine."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import bindparam, make_url, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError
from sqlalchemy.orm import Session

from data_flows.heartbeat.db.types import UTCDateTime
from data_flows.heartbeat.models import DataFlow, DataFlowRun

DATABASE = make_url(os.environ.get("TEST_DATABASE_URL") or "sqlite://").get_backend_name()
NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)

Add = Callable[..., None]


def insert_row(session: Session, table: str, row: dict[str, Any]) -> None:
    """Insert and commit a row by an SQL text, as any other tool would."""
    quote = session.get_bind().dialect.identifier_preparer.quote  # MySQL has a word `trigger`
    names, values = (", ".join(words) for words in (map(quote, row), (f":{name}" for name in row)))
    statement = text(f"INSERT INTO {table} ({names}) VALUES ({values})")  # noqa: S608 - our own names
    times = [name for name, value in row.items() if isinstance(value, datetime)]
    typed = [bindparam(name, type_=UTCDateTime()) for name in times]
    session.execute(statement.bindparams(*typed), row)
    session.commit()


@pytest.fixture
def add_flow(dbsession: Session) -> Add:
    """Insert a flow with these columns."""

    def add(**values: Any) -> None:
        row = {"name": "f", "handler": "f", "created_at": NOW, "updated_at": NOW, **values}
        insert_row(dbsession, "data_flows", row)

    return add


@pytest.fixture
def add_run(dbsession: Session, add_flow: Add) -> Add:
    """Insert an ended run of one flow with these columns."""
    add_flow(run_interval=60)
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
        insert_row(dbsession, "data_flow_runs", row)

    return add


def test_a_second_run_of_a_slot_and_attempt_is_refused(add_run: Add) -> None:
    add_run(scheduled_for=NOW, status="failed")

    with pytest.raises(IntegrityError):
        add_run(scheduled_for=NOW, status="success")


def test_a_second_attempt_and_another_slot_are_taken(add_run: Add, dbsession: Session) -> None:
    add_run(scheduled_for=NOW)
    add_run(scheduled_for=NOW, attempt=2)
    add_run(scheduled_for=NOW + timedelta(microseconds=1))

    assert len(dbsession.scalars(select(DataFlowRun.id)).all()) == 3


@pytest.mark.parametrize("first", ["pending", "in_progress"])
@pytest.mark.parametrize("second", ["pending", "in_progress"])
def test_a_second_active_run_is_refused(add_run: Add, first: str, second: str) -> None:
    add_run(status=first)

    with pytest.raises(IntegrityError):
        add_run(status=second)


def test_a_run_that_becomes_active_beside_another_is_refused(
    add_run: Add, dbsession: Session
) -> None:
    add_run(status="in_progress")
    add_run(status="failed")

    with pytest.raises(IntegrityError):
        dbsession.execute(text("UPDATE data_flow_runs SET status = 'pending'"))


def test_any_number_of_ended_and_manual_runs_is_taken(add_run: Add, dbsession: Session) -> None:
    for status in ("success", "success", "failed", "failed", "in_progress"):
        add_run(status=status, trigger="manual")

    assert len(dbsession.scalars(select(DataFlowRun.id)).all()) == 5


def test_an_active_run_that_has_ended_makes_room_for_the_next(
    add_run: Add, dbsession: Session
) -> None:
    add_run(status="in_progress")
    dbsession.execute(text("UPDATE data_flow_runs SET status = 'success'"))
    dbsession.commit()

    add_run(status="pending")

    assert len(dbsession.scalars(select(DataFlowRun.id)).all()) == 2


def test_an_end_before_the_start_is_refused(add_run: Add) -> None:
    add_run(started_at=NOW, ended_at=NOW)

    with pytest.raises(DBAPIError):  # what kind of it differs
        add_run(started_at=NOW, ended_at=NOW - timedelta(microseconds=1))


@pytest.mark.parametrize("values", [{"status": "done"}, {"status": ""}, {"trigger": "cron"}])
def test_an_unknown_status_or_trigger_is_refused(add_run: Add, values: dict[str, str]) -> None:
    with pytest.raises(DBAPIError):
        add_run(**values)


def test_a_run_of_no_flow_is_refused(add_run: Add) -> None:
    with pytest.raises(IntegrityError):
        add_run(data_flow_id=-1)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"run_interval": 60, "cron": "0 3 * * *"},
        {"run_interval": 0},
        {"run_interval": -60},
        {"run_interval": 60, "last_run_status": "done"},
        {"run_interval": 60, "last_run_status": "in_progress"},
    ],
)
def test_a_flow_that_makes_no_sense_is_refused(add_flow: Add, values: dict[str, Any]) -> None:
    with pytest.raises(DBAPIError):
        add_flow(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"run_interval": 1},
        {"cron": "0 3 * * *"},
        {"run_interval": 60, "last_run_status": "success"},
        {"run_interval": 60, "last_run_status": "failed"},
    ],
)
def test_a_flow_that_makes_sense_is_taken(
    add_flow: Add, dbsession: Session, values: dict[str, Any]
) -> None:
    add_flow(**values)

    assert len(dbsession.scalars(select(DataFlow.id)).all()) == 1


def test_a_second_flow_of_a_name_is_refused_and_case_counts(add_flow: Add) -> None:
    add_flow(run_interval=60)
    add_flow(run_interval=60, name="F")

    with pytest.raises(IntegrityError):
        add_flow(run_interval=60)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE data_flows SET run_interval = 0",
        "UPDATE data_flows SET run_interval = NULL",
        "UPDATE data_flows SET cron = '0 3 * * *'",
        "UPDATE data_flows SET last_run_status = 'done'",
        "UPDATE data_flow_runs SET status = 'SUCCESS'",
        "UPDATE data_flow_runs SET status = NULL",
        "UPDATE data_flow_runs SET started_at = ended_at + INTERVAL '1' SECOND",
    ],
)
def test_a_row_cannot_be_changed_to_what_is_refused(
    add_run: Add, dbsession: Session, change: str
) -> None:
    add_run(started_at=NOW, ended_at=NOW)
    if DATABASE == "sqlite":
        change = change.replace("ended_at + INTERVAL '1' SECOND", "datetime(ended_at, '+1 second')")

    with pytest.raises(DBAPIError):
        dbsession.execute(text(change))


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
    add_run: Add, dbsession: Session, moment: datetime
) -> None:
    add_run(scheduled_for=moment)

    stored = dbsession.scalars(select(DataFlowRun.scheduled_for)).one()

    assert stored == moment
    assert stored is not None
    assert stored.tzinfo is UTC


# A moment, as a session in India asks for it and sets it: what is kept does not depend on that.
OF_INDIA = {
    "postgresql": (
        "SET TIME ZONE 'Asia/Kolkata'",
        "to_char(scheduled_for AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')",
        ["2026-03-01 17:30:00.123456", "2026-03-01 12:00:00.123456Z"],
    ),
    "mysql": (
        "SET time_zone = '+05:30'",
        "CAST(scheduled_for AS CHAR)",
        ["2026-03-01 12:00:00.123456"],
    ),
    "sqlite": (
        "SELECT 1",
        "scheduled_for",
        ["2026-03-01 12:00:00.123456", "2026-03-01T12:00:00.123456Z"],
    ),
}[DATABASE]


def test_other_tools_read_times_to_the_microsecond(add_run: Add, dbsession: Session) -> None:
    prepare, column, _written = OF_INDIA
    add_run(scheduled_for=NOW)

    dbsession.execute(text(prepare))
    read = dbsession.scalars(text(f"SELECT {column} FROM data_flow_runs")).one()  # noqa: S608 - ours

    assert read == "2026-03-01 12:00:00.123456"


@pytest.mark.parametrize("written", OF_INDIA[2])
def test_what_other_tools_write_is_read_to_the_microsecond(
    add_run: Add, dbsession: Session, written: str
) -> None:
    add_run()

    dbsession.execute(text(OF_INDIA[0]))
    dbsession.execute(text("UPDATE data_flow_runs SET scheduled_for = :at"), {"at": written})
    dbsession.commit()

    assert dbsession.scalars(select(DataFlowRun.scheduled_for)).one() == NOW


def test_a_time_without_zone_is_refused(add_run: Add) -> None:
    with pytest.raises(StatementError, match="no time zone"):
        add_run(scheduled_for=NOW.replace(tzinfo=None))
