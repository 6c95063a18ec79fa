"""Renewal: which runs get a whole lease again, and which do not."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import pytest
from sqlalchemy import event, select
from sqlalchemy.orm import Session

from data_flows.heartbeat import Heartbeat
from data_flows.heartbeat.models import DataFlowRun
from data_flows.heartbeat.runs.lease import ensure_keeper, renew

from ..conftest import FakeClock, MakeApp, heartbeat_of
from ..factories import NOON, claimed_run, data_flow, data_flow_run

LEASE = timedelta(minutes=5)
SECONDS = 60


@pytest.fixture
def heartbeat(make_app: MakeApp) -> Heartbeat:
    """Make the heartbeat of an application without flows."""
    return heartbeat_of(make_app(**{"heartbeat.lease": "5m"}))


def store(dbsession: Session, **statuses: str) -> dict[str, DataFlowRun]:
    """Store a run for each name, claimed under that name, with a lease until noon."""
    runs = {
        name: data_flow_run(
            data_flow=data_flow(name=name),
            status=status,
            claim_id=name,
            started_at=NOON,
            lease_expires_at=NOON,
        )
        for name, status in statuses.items()
    }
    dbsession.add_all(runs.values())
    dbsession.commit()
    return runs


def renewed(dbsession: Session) -> list[str]:
    """Return the claims of the runs whose lease is whole again."""
    dbsession.rollback()
    statement = select(DataFlowRun.claim_id).where(DataFlowRun.lease_expires_at == NOON + LEASE)
    return sorted(claim or "" for claim in dbsession.scalars(statement))


@contextmanager
def at_work(heartbeat: Heartbeat, run: DataFlowRun) -> Iterator[FakeClock]:
    """Count a run as at work, seen by the keeper of leases; yield the clock that it looks at."""
    heartbeat.clock = clock = WatchedClock(NOON - timedelta(seconds=100))
    ensure_keeper(heartbeat)
    with heartbeat.executor.working_here(claimed_run(id=run.id)):
        assert clock.seen.wait(SECONDS)
        yield clock


class WatchedClock(FakeClock):
    """A clock that records when it was read."""

    def __init__(self, start: datetime) -> None:
        super().__init__(start)
        self.seen = threading.Event()

    def monotonic(self) -> float:
        """Return the seconds it was moved ahead."""
        seconds = super().monotonic()
        self.seen.set()
        return seconds


def wait_until_renewed(dbsession: Session) -> None:
    """Wait until the keeper has renewed a lease."""
    deadline = time.monotonic() + SECONDS
    while not renewed(dbsession):
        assert time.monotonic() < deadline, "the lease was never renewed"
        time.sleep(0.05)


def test_only_what_is_in_progress_under_our_claim_is_renewed(
    heartbeat: Heartbeat, dbsession: Session
) -> None:
    runs = store(dbsession, ours="in_progress", ended="success", theirs="in_progress")
    claims = {"ours": "ours", "ended": "ended", "theirs": "lost claim"}
    claimed = [claimed_run(id=runs[name].id, claim_id=claim) for name, claim in claims.items()]

    assert renew(heartbeat, claimed) == 0

    assert renewed(dbsession) == ["ours"]


@pytest.mark.parametrize("count", [1, 8])
def test_renewing_costs_the_same_for_one_run_and_for_eight(
    heartbeat: Heartbeat, dbsession: Session, count: int
) -> None:
    runs = store(dbsession, **{f"run {number}": "in_progress" for number in range(count)})
    claimed = [claimed_run(id=run.id, claim_id=name) for name, run in runs.items()]
    dbsession.commit()
    statements: list[str] = []
    event.listen(
        heartbeat.engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, *_: statements.append(statement.split()[0]),
    )

    assert renew(heartbeat, claimed) == 0

    assert [word for word in statements if word not in {"BEGIN", "SET"}] == ["SELECT", "UPDATE"]


def test_a_run_that_ends_takes_no_lease_but_its_own(heartbeat: Heartbeat) -> None:
    # On a SQLite database of an old version, the id of a run that was deleted is given again.
    still_at_work = claimed_run(id=1, claim_id="still at work")
    with heartbeat.executor.working_here(still_at_work):
        with heartbeat.executor.working_here(claimed_run(id=1, claim_id="deleted meanwhile")):
            pass

        assert heartbeat.executor.runs_at_work() == [still_at_work]


def test_a_lease_is_renewed_once_a_third_has_passed_and_no_longer_than_its_run_lives(
    heartbeat: Heartbeat, dbsession: Session
) -> None:
    run = store(dbsession, ours="in_progress")["ours"]
    dbsession.refresh(run)
    dbsession.commit()
    with at_work(heartbeat, run) as clock:
        clock.advance(100)
        wait_until_renewed(dbsession)

    assert heartbeat.executor.runs_at_work() == []


def test_a_renewal_that_could_not_be_written_is_tried_again(
    heartbeat: Heartbeat,
    dbsession: Session,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = store(dbsession, ours="in_progress")["ours"]
    dbsession.refresh(run)
    dbsession.commit()
    failures = iter([RuntimeError("the database is away"), RuntimeError("still away")])

    def fail(*_ignored: object) -> None:
        if (error := next(failures, None)) is not None:
            raise error

    event.listen(heartbeat.engine, "before_cursor_execute", fail)
    with at_work(heartbeat, run) as clock:
        clock.advance(100)
        wait_until_renewed(dbsession)

    assert next(failures, None) is None
    # The database may be away for an hour.
    assert caplog.text.count("could not be renewed") == 1
