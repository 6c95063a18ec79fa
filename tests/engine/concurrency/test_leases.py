"""A lease is valid while its process lives, and no longer: real processes."""

import time
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from data_flows.heartbeat.db import begin_writing
from data_flows.heartbeat.models import DataFlow, DataFlowRun

from .conftest import DATABASE, Serve, Server, wait_until
from .served import WRITTEN

# The shortest lease that the settings take, in seconds.
LEASE = 3
BUSY = {"heartbeat.lease": f"{LEASE}s", "heartbeat.wait": "0s"}
OTHER = {"heartbeat.lease": f"{LEASE}s", "heartbeat.wait": "5s"}


def all_runs(dbsession: Session) -> list[DataFlowRun]:
    """Return the rows of all runs as they are now, oldest first."""
    dbsession.rollback()
    found = list(dbsession.scalars(select(DataFlowRun).order_by(DataFlowRun.id)))
    dbsession.commit()
    return found


def written(dbsession: Session) -> list[Any]:
    """Return the slots of the rows that flows have written and committed."""
    dbsession.rollback()
    return list(dbsession.scalars(select(WRITTEN.c.slot)))


def begin(server: Server, folder: Path) -> None:
    """Beat, and wait until the flow is at work."""
    assert server.beat()["status"] == 202
    wait_until((folder / "inside").exists, "the flow never began")


def beat_until_reaped(server: Server, dbsession: Session) -> None:
    """Beat until a run was reaped, be it by a beat that has answered before."""

    def reaped() -> bool:
        server.beat()
        time.sleep(0.1)  # a beat is not cheap
        return all_runs(dbsession)[0].ended_at is not None

    wait_until(reaped, "the run was never reaped")


def stop_without_locks(server: Server, dbsession: Session) -> None:
    """Stop a process at a moment when it locks nothing that a reaper needs.

    It renews its leases meanwhile, and may be at the end of its beat.
    """

    def locks_nothing() -> bool:
        with Session(dbsession.get_bind()) as session:
            try:
                for model in (DataFlow, DataFlowRun):
                    session.scalars(select(model).with_for_update(nowait=True)).all()
            except OperationalError:
                return False
            return begin_writing(session, wait=False)

    def stopped() -> bool:
        server.stop()
        if not locks_nothing():
            server.go_on()
            return False
        return True

    wait_until(stopped, "the process always locks something")


def ended(dbsession: Session, count: int = 1) -> bool:
    """Return whether so many runs have ended."""
    return sum(run.ended_at is not None for run in all_runs(dbsession)) == count


def test_a_run_that_takes_longer_than_its_lease_is_kept(
    serve: Serve, dbsession: Session, folder: Path
) -> None:
    busy, other = serve("write last", BUSY, OTHER)
    begin(busy, folder)
    reaped = []

    def renewed_twice() -> bool:
        reaped.append(other.beat()["runs_reaped"])
        time.sleep(0.1)
        [run] = all_runs(dbsession)
        assert run.lease_expires_at is not None
        assert run.started_at is not None
        return (run.lease_expires_at - run.started_at).total_seconds() > 2 * LEASE + 1

    wait_until(renewed_twice, "the lease was never renewed")
    (folder / "released").touch()
    wait_until(lambda: ended(dbsession), "the run never ended")

    [run] = all_runs(dbsession)
    assert (run.status, sum(reaped)) == ("success", 0)
    assert written(dbsession) == [run.scheduled_for]


def test_a_process_that_was_stopped_beyond_its_lease_commits_nothing(
    serve: Serve, dbsession: Session, folder: Path
) -> None:
    # On SQLite a flow that has written holds the only write lock: no process could reap it.
    busy, other = serve("write last" if DATABASE == "sqlite" else "hold", BUSY, OTHER)
    begin(busy, folder)
    (folder / "inside").unlink()

    stop_without_locks(busy, dbsession)
    beat_until_reaped(other, dbsession)
    lost = all_runs(dbsession)[0]
    assert (lost.status, lost.error_type) == ("failed", "LeaseExpired")
    (folder / "released").touch()
    busy.go_on()
    wait_until(lambda: "is no longer ours" in busy.log(), "the process never went on")

    [row] = [run for run in all_runs(dbsession) if run.id == lost.id]
    assert (row.status, row.error_type, row.updated_at) == (
        "failed",
        "LeaseExpired",
        lost.updated_at,
    )
    assert lost.scheduled_for not in written(dbsession)


if DATABASE == "sqlite":  # the others lock no more than the rows that a flow has written

    def test_on_sqlite_no_beat_reaps_a_stopped_process_that_holds_the_write_lock(
        serve: Serve, dbsession: Session, folder: Path
    ) -> None:
        busy, other = serve("hold", BUSY, OTHER)
        begin(busy, folder)

        busy.stop()
        time.sleep(LEASE + 2)  # how long it stands still is what this is about
        assert other.beat()["runs_reaped"] == 0
        (folder / "released").touch()
        busy.go_on()
        wait_until(lambda: ended(dbsession), "the run never ended")

        first = all_runs(dbsession)[0]
        assert first.status == "success"
        assert first.scheduled_for in written(dbsession)


def test_a_lost_slot_is_due_again_where_its_flow_declares_it(
    serve: Serve, dbsession: Session, folder: Path
) -> None:
    doomed, other = serve("retry", BUSY, OTHER)
    begin(doomed, folder)
    doomed.kill()
    (folder / "released").touch()
    beat_until_reaped(other, dbsession)
    wait_until(lambda: ended(dbsession, 2), "the next attempt never ended")

    lost, again = all_runs(dbsession)
    assert (lost.status, lost.error_type, lost.attempt) == ("failed", "LeaseExpired", 1)
    assert (again.status, again.trigger, again.attempt) == ("success", "retry", 2)
    assert again.scheduled_for == lost.scheduled_for
    assert (again.window_start, again.window_end) == (lost.window_start, lost.window_end)
    assert written(dbsession) == [lost.scheduled_for]
