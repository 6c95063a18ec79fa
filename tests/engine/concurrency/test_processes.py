"""What several processes on one database may never do to each other: real servers, real beats."""

import re
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, make_url, select, update
from sqlalchemy.orm import Session

from data_flows.heartbeat.clock import Clock
from data_flows.heartbeat.db import make_engine
from data_flows.heartbeat.migrations import require_current
from data_flows.heartbeat.models import DataFlow, DataFlowBeat, DataFlowRun

from ..factories import data_flow, data_flow_run
from .conftest import SECONDS, Serve, Server, TenAtOnce, at_once, wait_until
from .served import MANY, TOGETHER, WRITTEN

ROUNDS = 3
# The shortest lease that the settings take, in seconds.
LEASE = 3


def rows(dbsession: Session, *columns: Any) -> list[tuple[Any, ...]]:
    """Select columns in a new transaction, oldest row first."""
    dbsession.rollback()
    found = [tuple(row) for row in dbsession.execute(select(*columns).order_by(columns[0]))]
    dbsession.rollback()
    return found


def complaints(servers: list[Server]) -> list[str]:
    """Return the lines of a server's log that report an error.

    Who registers second is refused the name, on purpose: that line does not count.
    """
    lines = "\n".join(server.log() for server in servers).splitlines()
    errors = [line for line in lines if line.startswith(("ERROR", "CRITICAL", "Traceback"))]
    return [line for line in errors if not re.search(r"data_flows\.name|uq_data_flows_name", line)]


def test_simultaneous_beats_of_two_processes_run_each_slot_once(
    serve: Serve, dbsession: Session
) -> None:
    servers = serve("many", {}, {})

    for round_number in range(1, ROUNDS + 1):
        replies = at_once(*[server.beat for server in servers for _ in range(2)])

        assert [reply["status"] for reply in replies] == [200] * 4, replies
        assert sum(reply["flows_triggered"] for reply in replies) == MANY
        assert sum(reply["flows_succeeded"] for reply in replies) == MANY
        assert len(rows(dbsession, WRITTEN.c.id)) == round_number * MANY
        # All at once, at a slot without a run.
        dbsession.execute(update(DataFlow).values(next_run_at=Clock().now()))
        dbsession.commit()

    ran = rows(dbsession, WRITTEN.c.flow_name, WRITTEN.c.slot)
    assert len(set(ran)) == len(ran) == ROUNDS * MANY
    runs = rows(dbsession, DataFlowRun.status, DataFlowRun.attempt)
    assert runs == [("success", 1)] * ROUNDS * MANY
    assert complaints(servers) == []


def test_a_killed_process_leaves_no_writes_and_its_run_is_reaped(
    serve: Serve, dbsession: Session, folder: Path
) -> None:
    lease = {"heartbeat.lease": "3s"}
    doomed, other = serve("hold", {**lease, "heartbeat.wait": "0s"}, lease)

    assert doomed.beat()["status"] == 202
    wait_until((folder / "inside").exists, "the flow never began")
    doomed.kill()

    assert rows(dbsession, DataFlowRun.status) == [("in_progress",)]
    assert rows(dbsession, WRITTEN.c.id) == []
    (folder / "released").touch()
    replies: list[dict[str, Any]] = []

    def both_done() -> bool:
        replies.append(other.beat())
        time.sleep(0.1)  # a beat is not cheap
        return len(rows(dbsession, DataFlowRun.id)) > 1

    wait_until(both_done, "the flow was never due again")
    assert sum(reply["runs_reaped"] for reply in replies) == 1
    assert {reply["status"] for reply in replies} == {200}
    dbsession.rollback()
    lost, again = dbsession.scalars(select(DataFlowRun).order_by(DataFlowRun.id))
    assert (lost.status, lost.error_type) == ("failed", "LeaseExpired")
    assert lost.ended_at is not None
    assert lost.lease_expires_at is not None
    assert lost.ended_at >= lost.lease_expires_at
    assert again.status == "success"
    assert again.scheduled_for is not None
    assert lost.scheduled_for is not None
    assert again.scheduled_for > lost.scheduled_for
    assert (again.scheduled_for - lost.scheduled_for) % timedelta(seconds=1) == timedelta(0)
    assert rows(dbsession, WRITTEN.c.flow_name, WRITTEN.c.slot) == [("hold", again.scheduled_for)]


def test_flows_that_read_wait_and_write_at_once_all_succeed(
    serve: Serve, dbsession: Session
) -> None:
    servers = serve("in step", {}, {})

    replies = at_once(*[server.beat for server in servers])

    assert [reply["status"] for reply in replies] == [200, 200]
    assert sum(reply["flows_succeeded"] for reply in replies) == TOGETHER
    assert rows(dbsession, DataFlowRun.status) == [("success",)] * TOGETHER
    assert rows(dbsession, func.count(WRITTEN.c.id)) == [(TOGETHER,)]
    assert complaints(servers) == []


def test_a_flow_that_holds_the_write_lock_for_twice_the_lease_gets_no_run_reaped(
    serve: Serve, dbsession: Session, folder: Path
) -> None:
    lease = {"heartbeat.lease": f"{LEASE}s"}
    *servers, other = serve("queue", lease, lease, {**lease, "heartbeat.wait": "1s"})
    replies: list[dict[str, Any]] = []
    calls = [threading.Thread(target=server.beat) for server in servers]
    for call in calls:
        call.start()
    wait_until((folder / "inside").exists, "the flow never wrote")

    # On SQLite nothing can be written now, not even a renewal. On the others nothing waits.
    until = time.monotonic() + 2 * LEASE + 1  # that it takes so long is what this is about
    while time.monotonic() < until:
        replies.append(other.beat())
        time.sleep(0.1)
    (folder / "released").touch()
    for call in calls:
        call.join(SECONDS)
    wait_until(
        lambda: rows(dbsession, DataFlowRun.status) == [("success",)] * TOGETHER,
        "the flows did not all succeed",
    )
    replies.append(other.beat())

    assert {reply["status"] for reply in replies} <= {200, 202}
    assert sum(reply["runs_reaped"] for reply in replies) == 0
    assert rows(dbsession, func.count(WRITTEN.c.id)) == [(TOGETHER,)]
    assert complaints([*servers, other]) == []


@pytest.mark.usefixtures("written")
def test_ten_processes_that_beat_at_once_run_each_flow_and_reap_each_lost_run_once(
    ten_at_once: TenAtOnce, database_url: str, dbsession: Session
) -> None:
    past = Clock().now() - timedelta(hours=1)
    for number in range(MANY):
        lost = data_flow_run(status="in_progress", started_at=past, lease_expires_at=past)
        # Nobody knows its handler, so that it is not due again.
        lost.data_flow = data_flow(name=f"lost {number}")
        dbsession.add(lost)
    dbsession.commit()

    def all_reaped() -> bool:
        # Rows that were locked at that moment are left to the next beat.
        failed, output = ten_at_once("beat", database_url)
        assert failed == 0, output
        return ("in_progress",) not in rows(dbsession, DataFlowRun.status)

    wait_until(all_reaped, "not all were reaped")

    names = [name for (name,) in rows(dbsession, WRITTEN.c.flow_name)]
    assert sorted(names) == sorted(f"many {number}" for number in range(MANY))
    ended = rows(dbsession, DataFlowRun.status, DataFlowRun.error_type)
    assert ended == [("failed", "LeaseExpired")] * MANY + [("success", None)] * MANY
    counted = [
        sum(count for (count,) in rows(dbsession, column))
        for column in (
            DataFlowBeat.runs_reaped,
            DataFlowBeat.flows_triggered,
            DataFlowBeat.flows_succeeded,
        )
    ]
    assert counted == [MANY, MANY, MANY]


def test_ten_processes_that_register_at_once_make_each_flow_one_row(
    ten_at_once: TenAtOnce, database_url: str, dbsession: Session
) -> None:
    failed, output = ten_at_once("register", database_url)

    assert failed == 0, output
    names = [name for (name,) in rows(dbsession, DataFlow.name)]
    assert sorted(names) == sorted(f"many {number}" for number in range(MANY))


def test_ten_processes_that_migrate_a_missing_database_at_once_all_succeed(
    ten_at_once: TenAtOnce, fresh_database_url: str
) -> None:
    failed, output = ten_at_once("migrate", fresh_database_url)

    assert failed == 0, output
    engine = make_engine(make_url(fresh_database_url))
    require_current(engine)
    engine.dispose()
