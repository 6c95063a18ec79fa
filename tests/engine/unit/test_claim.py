"""What a claim takes, what it leaves, and what it writes down about it."""

import uuid
from datetime import timedelta

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from data_flows.heartbeat import Heartbeat
from data_flows.heartbeat.errors import ActiveRunError, HandlerNotRegisteredError, UnknownFlowError
from data_flows.heartbeat.models import DataFlow, DataFlowRun
from data_flows.heartbeat.runs.claim import claim
from data_flows.heartbeat.runs.execute import execute
from data_flows.heartbeat.runs.request import claim_by_hand

from ..conftest import MakeApp, heartbeat_of
from ..factories import NOON, data_flow, data_flow_run


@pytest.fixture
def heartbeat(make_app: MakeApp) -> Heartbeat:
    """Make the heartbeat of an application whose flow is called "note"; no row is made."""
    return heartbeat_of(make_app((lambda _run: {"rows": 3}, {"name": "note"})))


def claimed(heartbeat: Heartbeat, most: int = 10) -> list[str]:
    """Claim at noon; return the names of the flows whose runs were taken."""
    with heartbeat.session() as session:
        runs = claim(session, heartbeat, most)
        return [run.flow_name for run in runs]


def test_a_claimed_run_is_ours_until_its_lease_ends(
    heartbeat: Heartbeat, dbsession: Session
) -> None:
    dbsession.add(data_flow(name="due", handler="note"))
    dbsession.commit()

    assert claimed(heartbeat) == ["due"]

    run = dbsession.scalars(select(DataFlowRun)).one()
    assert (run.status, run.worker, run.started_at) == ("in_progress", heartbeat.worker, NOON)
    assert run.lease_expires_at == NOON + timedelta(minutes=5)
    assert uuid.UUID(run.claim_id)
    assert run.data_flow.next_run_at == NOON + timedelta(minutes=5)


def test_a_process_that_stops_claims_nothing_any_more(
    heartbeat: Heartbeat, dbsession: Session
) -> None:
    dbsession.add(data_flow(name="due", handler="note"))
    dbsession.commit()
    heartbeat.executor.stop()  # as while the claim waits for SQLite's write lock

    assert claimed(heartbeat) == []


def test_no_more_is_claimed_than_asked_for_most_overdue_first(
    heartbeat: Heartbeat, dbsession: Session
) -> None:
    for minutes in (1, 3, 2):
        slot = NOON - timedelta(minutes=minutes)
        dbsession.add(data_flow(name=f"{minutes} late", handler="note", next_run_at=slot))
    dbsession.commit()

    assert sorted(claimed(heartbeat, most=2)) == ["2 late", "3 late"]
    assert claimed(heartbeat, most=2) == ["1 late"]
    assert claimed(heartbeat, most=2) == []


def test_what_was_asked_for_by_hand_goes_first(heartbeat: Heartbeat, dbsession: Session) -> None:
    dbsession.add(data_flow(name="due", handler="note", next_run_at=NOON - timedelta(hours=1)))
    asked = data_flow(name="asked", handler="note", next_run_at=NOON + timedelta(hours=1))
    dbsession.add(data_flow_run(data_flow=asked))
    dbsession.commit()

    assert claimed(heartbeat, most=1) == ["asked"]
    assert claimed(heartbeat, most=1) == ["due"]


@pytest.mark.parametrize(
    ("flow", "run", "taken"),
    [
        ({}, {"trigger": "manual"}, True),
        ({"enabled": False}, {"trigger": "manual"}, True),
        ({"enabled": False}, {"trigger": "retry"}, False),
        ({"handler": "stray"}, {"trigger": "manual"}, False),
        ({}, {"trigger": "retry", "not_before": NOON}, True),
        ({}, {"trigger": "retry", "not_before": NOON + timedelta(seconds=1)}, False),
    ],
)
def test_a_pending_run_is_taken_when_its_time_and_flow_allow(
    heartbeat: Heartbeat,
    dbsession: Session,
    flow: dict[str, object],
    run: dict[str, object],
    *,
    taken: bool,
) -> None:
    row = data_flow(**{"name": "asked", "handler": "note", **flow})
    dbsession.add(data_flow_run(data_flow=row, **run))
    dbsession.commit()

    assert claimed(heartbeat) == (["asked"] if taken else [])


def test_a_slot_that_has_its_run_already_is_passed_over_and_the_rest_goes_on(
    heartbeat: Heartbeat, dbsession: Session
) -> None:
    slot = NOON - timedelta(minutes=1)
    for name in ("done", "due"):
        dbsession.add(data_flow(name=name, handler="note", next_run_at=slot, last_slot_at=slot))
    dbsession.flush()
    done = dbsession.scalars(select(DataFlow).where(DataFlow.name == "done")).one()
    dbsession.add(data_flow_run(data_flow=done, status="success", scheduled_for=slot))
    dbsession.commit()

    assert claimed(heartbeat) == ["due"]
    dbsession.refresh(done)
    assert done.next_run_at == slot + timedelta(minutes=5)


def test_a_claim_by_hand_is_refused_where_it_cannot_be(
    heartbeat: Heartbeat, dbsession: Session
) -> None:
    busy = data_flow(name="busy", handler="note")
    dbsession.add_all([data_flow_run(data_flow=busy), data_flow(name="stray")])
    dbsession.commit()

    for name, error in [
        ("busy", ActiveRunError),
        ("stray", HandlerNotRegisteredError),
        ("missing", UnknownFlowError),
    ]:
        with heartbeat.session() as session, pytest.raises(error, match=name):
            claim_by_hand(session, heartbeat, name)


def test_a_run_that_was_taken_over_meanwhile_changes_nothing(
    heartbeat: Heartbeat, dbsession: Session
) -> None:
    dbsession.add(data_flow(name="due", handler="note"))
    dbsession.commit()
    with heartbeat.session() as session:
        [run] = claim(session, heartbeat, 1)
    dbsession.execute(update(DataFlowRun).values(claim_id=str(uuid.uuid4())))
    dbsession.commit()

    status = execute(heartbeat, run)

    row = dbsession.scalars(select(DataFlowRun)).one()
    assert status == "failed"
    assert (row.status, row.result) == ("in_progress", None)
    assert row.data_flow.last_run_at is None
