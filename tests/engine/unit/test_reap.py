"""Which runs are given up, and which are not."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from data_flows.heartbeat import Heartbeat
from data_flows.heartbeat.models import DataFlowRun
from data_flows.heartbeat.runs.reap import expired_runs, reap

from ..conftest import FakeClock, MakeApp, heartbeat_of
from ..factories import NOON, data_flow, data_flow_run


@pytest.fixture
def heartbeat(make_app: MakeApp) -> Heartbeat:
    """Make the heartbeat of an application without flows."""
    return heartbeat_of(make_app())


@pytest.fixture
def suspects(heartbeat: Heartbeat, dbsession: Session) -> Sequence[DataFlowRun]:
    """Store runs of all kinds; return those whose lease has ended at noon."""
    soon = NOON + timedelta(seconds=1)
    for name, status, lease in [
        ("expired", "in_progress", NOON),
        ("alive", "in_progress", soon),
        ("waiting", "pending", None),
        ("ended", "success", NOON),
    ]:
        run = data_flow_run(status=status, lease_expires_at=lease, worker="host:1", started_at=NOON)
        run.data_flow = data_flow(name=name)
        dbsession.add(run)
    dbsession.commit()
    with heartbeat.session() as session:
        return expired_runs(session, NOON)


def statuses(dbsession: Session) -> dict[str, str]:
    dbsession.rollback()
    return {run.data_flow.name: run.status for run in dbsession.scalars(select(DataFlowRun))}


def test_only_runs_in_progress_whose_lease_has_ended_are_reaped(
    heartbeat: Heartbeat, dbsession: Session, suspects: Sequence[DataFlowRun], clock: FakeClock
) -> None:
    assert reap(heartbeat, suspects) == 1

    assert statuses(dbsession) == {
        "expired": "failed",
        "alive": "in_progress",
        "waiting": "pending",
        "ended": "success",
    }
    row = dbsession.scalars(DataFlowRun.failed()).one()
    assert (row.error_type, row.ended_at, row.duration) == ("LeaseExpired", clock.now(), 1)
    assert "host:1 gave no sign of life" in (row.error_message or "")
    assert (row.data_flow.last_run_status, row.data_flow.last_run_at) == ("failed", clock.now())


@pytest.mark.parametrize(
    "sign_of_life",
    [{"lease_expires_at": NOON + timedelta(minutes=5)}, {"status": "success"}],
    ids=["renewed", "ended"],
)
def test_a_run_that_shows_life_before_the_second_look_is_left_alone(
    heartbeat: Heartbeat,
    dbsession: Session,
    suspects: Sequence[DataFlowRun],
    sign_of_life: dict[str, object],
) -> None:
    dbsession.execute(
        update(DataFlowRun).where(DataFlowRun.id == suspects[0].id).values(sign_of_life)
    )
    dbsession.commit()

    assert reap(heartbeat, suspects) == 0

    assert statuses(dbsession)["expired"] == sign_of_life.get("status", "in_progress")
    row = dbsession.get_one(DataFlowRun, suspects[0].id)
    assert row.data_flow.last_run_at is None


def test_a_run_is_reaped_once(heartbeat: Heartbeat, suspects: Sequence[DataFlowRun]) -> None:
    assert (reap(heartbeat, suspects), reap(heartbeat, suspects)) == (1, 0)
