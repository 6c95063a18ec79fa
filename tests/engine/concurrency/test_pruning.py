"""History that many processes prune at once, and beside beats that make more of it."""

from collections import Counter
from datetime import timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from data_flows.heartbeat.clock import Clock
from data_flows.heartbeat.models import DataFlow, DataFlowBeat, DataFlowRun

from ..factories import data_flow, data_flow_beat, data_flow_run
from .conftest import Serve, TenAtOnce, at_once, wait_until
from .test_processes import complaints, rows

FLOWS = 3
OLD = 450  # of each flow: together more than a step removes
KEPT = 100  # the default of `keep_runs`


def make_history(dbsession: Session, flows: list[DataFlow]) -> None:
    """Store old runs of each flow, half of them failed, and old beats."""
    long_ago = Clock().now() - timedelta(days=99)
    for flow in flows:
        dbsession.add_all(
            data_flow_run(
                data_flow=flow,
                status="success" if number % 2 else "failed",
                worker="kept" if number >= OLD - 2 * KEPT else "old",
                ended_at=long_ago + timedelta(seconds=number),
            )
            for number in range(OLD)
        )
    dbsession.add_all(data_flow_beat(received_at=long_ago) for _ in range(2 * OLD))
    dbsession.commit()


def test_ten_processes_that_prune_at_once_leave_what_one_would(
    ten_at_once: TenAtOnce, database_url: str, dbsession: Session
) -> None:
    make_history(dbsession, [data_flow(name=f"many {number}") for number in range(FLOWS)])

    failed, output = ten_at_once("prune", database_url)

    assert failed == 0, output
    left = Counter(rows(dbsession, DataFlowRun.data_flow_id, DataFlowRun.status))
    assert sorted(left.values()) == [KEPT] * FLOWS * 2
    assert {*rows(dbsession, DataFlowRun.worker)} == {("kept",)}
    assert rows(dbsession, DataFlowBeat.id) == []
    lines = [line.split() for line in output.splitlines() if line.startswith("removed ")]
    assert sum(int(words[1]) for words in lines) == FLOWS * (OLD - 2 * KEPT)
    assert sum(int(words[4]) for words in lines) == 2 * OLD


def test_beats_of_two_processes_prune_while_they_run_flows(
    serve: Serve, dbsession: Session
) -> None:
    servers = serve("many", {}, {})
    servers[0].beat()
    make_history(dbsession, [*dbsession.scalars(select(DataFlow).limit(FLOWS))])
    replies: list[dict[str, Any]] = []

    def nothing_old_is_left() -> bool:
        dbsession.execute(update(DataFlow).values(next_run_at=Clock().now()))
        dbsession.commit()
        replies.extend(at_once(*[server.beat for server in servers for _ in range(2)]))
        return ("old",) not in rows(dbsession, DataFlowRun.worker)

    wait_until(nothing_old_is_left, "old runs are not removed")

    assert {reply["status"] for reply in replies} == {200}
    assert sum(reply["flows_succeeded"] for reply in replies) > 0
    assert {reply["flows_failed"] for reply in replies} == {0}
    # Of the successes, new ones have taken the place of some.
    assert rows(dbsession, DataFlowRun.status).count(("failed",)) == FLOWS * KEPT
    # The answer to a caller that must not wait for SQLite's lock.
    assert [line for line in complaints(servers) if "database is locked" not in line] == []
