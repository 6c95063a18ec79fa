"""What the models promise: selections, relations, times, and what the database refuses."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import CheckConstraint, inspect, select, text
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.orm import Session

from data_flows.heartbeat.models import DataFlow, DataFlowBeat, DataFlowRun, is_engine_table

from ..factories import NOON, data_flow, data_flow_beat, data_flow_run


def names(dbsession: Session, now: datetime = NOON) -> list[str]:
    return [flow.name for flow in dbsession.scalars(DataFlow.due_to_run(now))]


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


@pytest.fixture
def history(dbsession: Session) -> DataFlow:
    """Store a flow with two runs of each end, one pending, and another flow's run in progress."""
    flow = data_flow(name="orders")
    ended = [
        data_flow_run(data_flow=flow, status=status, created_at=NOON - timedelta(hours=hours))
        for status, hours in [("success", 30), ("failed", 25), ("failed", 23), ("success", 1)]
    ]
    other = data_flow_run(data_flow=data_flow(name="other"), status="in_progress")
    dbsession.add_all([flow, *ended])
    dbsession.flush()
    dbsession.add_all([data_flow_run(data_flow=flow), other])
    dbsession.commit()
    return flow


def test_runs_are_selected_by_their_status(dbsession: Session, history: DataFlow) -> None:
    def found(selection: object) -> list[tuple[str, str]]:
        runs = dbsession.scalars(selection).all()  # type: ignore[call-overload]
        return [(run.data_flow.name, run.status) for run in runs]

    assert history.name == "orders"
    assert found(DataFlowRun.pending()) == [("orders", "pending")]
    assert found(DataFlowRun.in_progress()) == [("other", "in_progress")]
    assert found(DataFlowRun.completed()) == [("orders", "success")] * 2
    assert found(DataFlowRun.failed()) == [("orders", "failed")] * 2


@pytest.mark.usefixtures("history")
def test_recent_runs_are_those_of_the_last_24_hours_newest_first(dbsession: Session) -> None:
    runs = dbsession.scalars(DataFlowRun.recent(NOON)).all()

    assert len(runs) == 4
    assert all(run.created_at >= NOON - timedelta(hours=24) for run in runs)
    assert [run.id for run in runs] == sorted((run.id for run in runs), reverse=True)


def test_a_flow_knows_its_last_run_and_its_successful_ones(
    dbsession: Session, history: DataFlow
) -> None:
    successes = dbsession.scalars(history.successful_runs).all()

    assert history.last_run is not None
    assert history.last_run.status == "pending"
    assert [run.created_at for run in successes] == [
        NOON - timedelta(hours=1),
        NOON - timedelta(hours=30),
    ]


def test_a_flow_that_was_never_run_has_no_last_run(dbsession: Session) -> None:
    flow = data_flow()
    dbsession.add(flow)
    dbsession.commit()

    assert flow.last_run is None
    assert data_flow().last_run is None


@pytest.mark.parametrize("status", ["pending", "in_progress"])
def test_a_flow_with_an_active_run_is_not_due(dbsession: Session, status: str) -> None:
    dbsession.add(data_flow_run(data_flow=data_flow(name="busy"), status=status))
    dbsession.add(data_flow_run(data_flow=data_flow(name="free"), status="failed"))
    dbsession.commit()

    assert names(dbsession) == ["free"]


@pytest.mark.parametrize(
    ("ahead", "due"),
    [(minutes(-1), True), (minutes(0), True), (timedelta(microseconds=1), False)],
)
@pytest.mark.parametrize("schedule", [{}, {"run_interval": None, "cron": "* * * * *"}])
def test_a_flow_is_due_from_its_slot_on_and_not_a_moment_before(
    dbsession: Session, schedule: dict[str, str | None], ahead: timedelta, *, due: bool
) -> None:
    dbsession.add(data_flow(name="slot", next_run_at=NOON + ahead, **schedule))
    dbsession.commit()

    assert names(dbsession) == (["slot"] if due else [])


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC),
        datetime(2026, 3, 29, 3, 30, tzinfo=timezone(timedelta(hours=2))),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ],
)
def test_a_time_comes_back_aware_in_utc_to_the_microsecond(
    dbsession: Session, moment: datetime
) -> None:
    dbsession.add(data_flow_beat(received_at=moment))
    dbsession.commit()
    dbsession.expire_all()

    stored = dbsession.scalars(select(DataFlowBeat.received_at)).one()
    assert stored == moment
    assert stored.tzinfo is UTC


def test_a_time_without_a_zone_is_refused_with_the_fix(dbsession: Session) -> None:
    dbsession.add(data_flow_beat(received_at=datetime(2026, 3, 1)))  # noqa: DTZ001 - the point

    with pytest.raises(StatementError, match=r"datetime\.now\(UTC\)"):
        dbsession.flush()


@pytest.mark.parametrize(
    "columns",
    [
        {"status": "failed", "scheduled_for": NOON, "attempt": 1},
        {"status": "pending"},
        {"status": "in_progress"},
        {"trigger": "whim", "status": "failed"},
        {"status": "failed", "started_at": NOON, "ended_at": NOON - minutes(1)},
    ],
    ids=["slot and attempt twice", "second active", "active beside it", "trigger", "end"],
)
def test_the_database_refuses_a_run_that_cannot_be(
    dbsession: Session, columns: dict[str, object]
) -> None:
    flow = data_flow()
    dbsession.add(data_flow_run(data_flow=flow, scheduled_for=NOON, status="in_progress"))
    dbsession.commit()
    dbsession.add(data_flow_run(data_flow_id=flow.id, **columns))

    with pytest.raises(DBAPIError):
        dbsession.flush()


@pytest.mark.parametrize(
    "columns",
    [
        {"status": "failed", "scheduled_for": NOON, "attempt": 2},
        {"status": "failed", "scheduled_for": NOON + minutes(5)},
        {"status": "success", "started_at": NOON, "ended_at": NOON},
        {"status": "success", "trigger": "backfill"},
    ],
)
def test_the_database_takes_a_run_beside_an_active_one(
    dbsession: Session, columns: dict[str, object]
) -> None:
    flow = data_flow()
    dbsession.add(data_flow_run(data_flow=flow, scheduled_for=NOON, status="in_progress"))
    dbsession.commit()

    dbsession.add(data_flow_run(data_flow_id=flow.id, **columns))
    dbsession.commit()

    assert len(dbsession.scalars(select(DataFlowRun.id)).all()) == 2


@pytest.mark.parametrize(
    "columns",
    [
        {"cron": "0 3 * * *"},
        {"run_interval": None},
        {"last_run_status": "pending"},
        {"last_run_status": "SUCCESS"},
    ],
    ids=["both schedules", "neither schedule", "no end", "capitals"],
)
def test_the_database_refuses_a_flow_that_cannot_be(
    dbsession: Session, columns: dict[str, object]
) -> None:
    dbsession.add(data_flow(**columns))

    with pytest.raises(DBAPIError):
        dbsession.flush()


def test_a_run_ends_when_it_began_where_the_clock_stepped_back() -> None:
    run = data_flow_run(status="pending")
    run.start(NOON)

    run.succeed(NOON - minutes(3), result={"rows": 1})

    assert (run.ended_at, run.duration, run.result) == (NOON, 0, {"rows": 1})


def test_a_new_run_is_pending_before_it_is_stored() -> None:
    run = DataFlowRun(data_flow=data_flow())

    run.start(NOON)

    assert (run.status, run.started_at) == ("in_progress", NOON)


def test_a_row_of_raw_sql_gets_the_defaults(dbsession: Session) -> None:
    dbsession.execute(
        text(
            "INSERT INTO data_flows (name, handler, run_interval, created_at, updated_at) "
            "VALUES ('raw', 'raw', 60, '2026-03-01 12:00:00', '2026-03-01 12:00:00')"
        )
    )
    dbsession.commit()

    row = dbsession.scalars(select(DataFlow)).one()
    assert (row.enabled, row.timezone) == (True, "UTC")
    assert names(dbsession) == ["raw"]


@pytest.mark.parametrize("model", [DataFlow, DataFlowRun])
def test_the_checks_of_the_database_have_the_names_that_the_models_give_them(
    dbsession: Session, model: type[DataFlow | DataFlowRun]
) -> None:
    declared = {
        str(check.name)
        for check in model.metadata.tables[model.__tablename__].constraints
        if isinstance(check, CheckConstraint)
    }

    found = inspect(dbsession.connection()).get_check_constraints(model.__tablename__)

    assert declared <= {check["name"] for check in found}


def test_the_engine_knows_its_own_tables() -> None:
    tables = ["data_flows", "data_flow_runs", "data_flow_beats", "data_flow_version"]

    assert all(is_engine_table(name) for name in tables)
    assert not any(is_engine_table(name) for name in ["alembic_version", "csv_files", None])
