"""Beats meet rows that another process holds: on databases that lock rows one by one."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, insert, make_url, select, text
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run, migrations
from data_flows.heartbeat.core import Heartbeat
from data_flows.heartbeat.db import create_database, make_engine
from data_flows.heartbeat.models import DataFlow, DataFlowRun
from data_flows.heartbeat.run import ClaimedRun
from data_flows.heartbeat.runs.claim import claim
from data_flows.heartbeat.runs.request import claim_now
from data_flows.heartbeat.stopping import drain

from ..conftest import FakeClock, MakeApp, heartbeat_of
from ..factories import NOON, data_flow, data_flow_run
from .conftest import DATABASE

Post = Callable[..., Any]


@pytest.fixture
def elsewhere(database_url: str) -> Iterator[Engine]:
    """Connect as another process would."""
    engine = make_engine(make_url(database_url))
    yield engine
    engine.dispose()


def first(_run: Run) -> None:
    """Be a flow."""


def second(_run: Run) -> None:
    """Be another."""


def third(_run: Run) -> None:
    """Be one more."""


def test_a_beat_passes_over_a_flow_whose_row_is_locked(
    make_app: MakeApp, post: Post, clock: FakeClock, elsewhere: Engine
) -> None:
    app = make_app(first, second, third)
    post(app)
    clock.advance(300)

    with Session(elsewhere) as holder:
        holder.execute(select(DataFlow.id).where(DataFlow.name == "second").with_for_update())
        began = time.monotonic()
        while_locked = post(app).json
        seconds = time.monotonic() - began
    afterwards = post(app).json

    assert (while_locked["flows_due"], while_locked["flows_succeeded"]) == (3, 2)
    assert (afterwards["flows_due"], afterwards["flows_succeeded"]) == (1, 1)
    assert seconds < 10  # a look or three, but no waiting for the row


def test_a_run_whose_row_a_vanished_session_holds_keeps_no_other_from_being_reaped(
    make_app: MakeApp, post: Post, clock: FakeClock, elsewhere: Engine, dbsession: Session
) -> None:
    app = make_app(**{"heartbeat.lease": "5m"})
    for name in ("locked", "free"):
        lost = data_flow_run(
            data_flow=data_flow(name=name),
            status="in_progress",
            started_at=clock.now(),
            lease_expires_at=clock.now(),
        )
        dbsession.add(lost)
    dbsession.commit()
    clock.advance(1)

    with Session(elsewhere) as vanished:
        mine = select(DataFlowRun.id).join(DataFlow).where(DataFlow.name == "locked")
        vanished.execute(mine.with_for_update(of=DataFlowRun))
        while_locked = post(app).json
    afterwards = post(app).json

    assert (while_locked["runs_reaped"], afterwards["runs_reaped"]) == (1, 1)
    assert dbsession.scalars(select(DataFlowRun.status)).all() == ["failed", "failed"]


def test_a_run_whose_row_is_locked_while_its_process_stops_is_marked_a_moment_later(
    make_app: MakeApp, post: Post, elsewhere: Engine, dbsession: Session
) -> None:
    """A renewal of its lease may lock it just then."""
    let_go = threading.Event()

    def hang(_run: Run) -> None:
        let_go.wait(60)

    flows = [(hang, {"name": name}) for name in ("locked", "free")]
    app = make_app(*flows, **{"heartbeat.shutdown_grace": "0s"})
    post(app, status=202, Prefer="wait=0")
    ends = dict.fromkeys(("locked", "free"), "")

    def read_ends() -> None:
        statement = select(DataFlow.name, DataFlowRun.error_type).join(DataFlowRun.data_flow)
        ends.update({name: error or "" for name, error in dbsession.execute(statement)})
        dbsession.rollback()

    stop = threading.Thread(target=drain)
    with Session(elsewhere) as holder:
        run = select(DataFlowRun).join(DataFlowRun.data_flow).where(DataFlow.name == "locked")
        holder.scalars(run.with_for_update()).one()
        stop.start()
        while stop.is_alive() and not ends["free"]:
            read_ends()
            time.sleep(0.01)
    stop.join()
    read_ends()
    let_go.set()

    assert ends == {"locked": "Interrupted", "free": "Interrupted"}


def test_a_run_by_hand_waits_for_the_row_of_a_retry_that_is_locked(
    make_app: MakeApp, post: Post, elsewhere: Engine, dbsession: Session
) -> None:
    """A claim that skips the flow's locked row may hold it for a moment."""
    app = make_app((first, {"every": "1h", "retries": 1, "start": "next"}))
    post(app)
    flow_id = dbsession.scalars(select(DataFlow.id)).one()
    retry = data_flow_run(data_flow_id=flow_id, trigger="retry", attempt=2, scheduled_for=NOON)
    dbsession.add(retry)
    dbsession.commit()
    heartbeat, claimed = heartbeat_of(app), list[ClaimedRun]()
    claiming = threading.Thread(target=lambda: claimed.append(claim_now(heartbeat, "first")))

    with Session(elsewhere) as holder:
        holder.execute(select(DataFlowRun.id).with_for_update())
        claiming.start()
        claiming.join(0.5)
    claiming.join(60)

    assert [run.id for run in claimed] == [retry.id]


def test_a_run_that_asks_for_a_locked_row_waits_and_succeeds(
    make_app: MakeApp, post: Post, elsewhere: Engine, dbsession: Session
) -> None:
    holder = Session(elsewhere)

    def work(run: Run) -> None:
        # Its own flow's row, which the finish will ask for.
        holder.execute(select(DataFlow.id).where(DataFlow.name == run.flow_name).with_for_update())
        threading.Timer(0.3, holder.rollback).start()

    reply = post(make_app(work)).json
    holder.close()

    assert reply["flows_succeeded"] == 1
    assert dbsession.scalars(select(DataFlowRun.status)).all() == ["success"]


MANY = 2_000


def store_due_flows(dbsession: Session, now: datetime, count: int) -> list[str]:
    """Store flows that are due, in no order of time; return their names, most overdue first."""

    def name(minutes: int) -> str:
        return f"{minutes:04} minutes late"

    lateness = [number * 7 % count for number in range(count)]
    rows = [
        {
            "name": name(minutes),
            "handler": "first",
            "run_interval": 300,
            "next_run_at": now - timedelta(minutes=minutes),
            "created_at": now,
            "updated_at": now,
        }
        for minutes in lateness
    ]
    dbsession.execute(insert(DataFlow), rows)
    dbsession.commit()
    return [name(minutes) for minutes in sorted(lateness, reverse=True)]


def analyze(dbsession: Session) -> None:
    """Do what a server does by itself after so many changes, a minute later."""
    dbsession.execute(text(f"ANALYZE {'' if DATABASE == 'postgresql' else 'TABLE'} data_flows"))
    dbsession.commit()


def plan_of_a_claim(heartbeat: Heartbeat) -> str:
    """Claim for eight workers; return how the server finds the flows."""
    plans: list[str] = []

    def explain(
        connection: Connection, _cursor: object, statement: str, parameters: Any, *_more: object
    ) -> None:
        if "SKIP LOCKED" in statement and not statement.startswith("EXPLAIN"):
            rows = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
            plans.append("\n".join(str(row) for row in rows))

    event.listen(heartbeat.engine, "before_cursor_execute", explain)
    with heartbeat.session() as session:
        claim(session, heartbeat, 8)
    (plan,) = plans
    return plan


@pytest.mark.parametrize("count", [MANY, 10])
def test_a_claim_that_is_open_leaves_the_next_flows_to_another(
    make_app: MakeApp, dbsession: Session, clock: FakeClock, count: int
) -> None:
    due = store_due_flows(dbsession, clock.now(), count)
    analyze(dbsession)
    one, another = (heartbeat_of(make_app(first)) for _ in range(2))

    def names(runs: list[ClaimedRun]) -> list[str]:
        return sorted((run.flow_name for run in runs), reverse=True)

    with one.session() as session, another.session() as next_session:
        claims = [names(claim(session, one, 4)), names(claim(next_session, another, 4))]

    assert claims == [due[:4], due[4:8]]


def test_an_index_yields_the_flows_of_a_claim_in_order(
    make_app: MakeApp, dbsession: Session, clock: FakeClock
) -> None:
    store_due_flows(dbsession, clock.now(), MANY)
    analyze(dbsession)

    plan = plan_of_a_claim(heartbeat_of(make_app(first)))

    assert "ix_data_flows_enabled_next_run_at" in plan
    assert "sort" not in plan.lower()


def test_an_index_yields_them_before_there_are_statistics(
    make_app: MakeApp, fresh_database_url: str, clock: FakeClock
) -> None:
    engine = make_engine(make_url(fresh_database_url))
    create_database(engine)
    migrations.upgrade(engine)
    with Session(engine) as session:
        store_due_flows(session, clock.now(), 10 * MANY)
    heartbeat = heartbeat_of(make_app(first))
    heartbeat.engine = engine

    try:
        plan = plan_of_a_claim(heartbeat)
    finally:
        engine.dispose()

    assert "ix_data_flows_enabled_next_run_at" in plan
    assert "sort" not in plan.lower()
