"""Runs that are claimed ahead of the workers, and successes that are recorded together."""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, make_url, select, update
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Heartbeat, Run
from data_flows.heartbeat.executors import local
from data_flows.heartbeat.models import DataFlow, DataFlowRun

from ..conftest import FakeClock, MakeApp, heartbeat_of
from ..factories import NOON, data_flow
from .conftest import Gate, settle

Post = Callable[..., Any]
SECONDS = 30
FLOWS = 12
REFUSED = "flow 5"
WORKERS = {"heartbeat.workers": "8"}
DATABASE = make_url(os.environ.get("TEST_DATABASE_URL") or "sqlite://").get_backend_name()


def idle(_run: Run) -> None:
    """Do nothing."""


def by_status(dbsession: Session) -> dict[str, set[str]]:
    """Return the names of flows by the status of their runs."""
    dbsession.rollback()
    rows = select(DataFlowRun.status, DataFlow.name).join(DataFlowRun.data_flow)
    found: dict[str, set[str]] = {}
    for status, name in dbsession.execute(rows):
        found.setdefault(status, set()).add(name)
    dbsession.rollback()
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def add_flows(dbsession: Session, names: list[str], handler: str) -> None:
    """Add flows that are due in this order."""
    for number, name in enumerate(names):
        slot = NOON - timedelta(minutes=1) + timedelta(seconds=number)
        dbsession.add(data_flow(name=name, handler=handler, next_run_at=slot))
    dbsession.commit()


class Meeting:
    """Flows that end together: each waits until all of them have come."""

    def __init__(self, size: int) -> None:
        self.names = Counter[str]()
        self._all_here = threading.Barrier(size)

    def work(self, run: Run) -> None:
        """Come, wait for the others, and go."""
        self.names[run.flow_name] += 1
        self._all_here.wait(SECONDS)


# ---------------------------------------------------------------------------------------------
# Successes that are recorded together

REFUSALS = {
    "sqlite": (
        """
        CREATE TRIGGER refuse BEFORE UPDATE ON data_flow_runs WHEN new.status = 'success'
            AND new.data_flow_id = (SELECT id FROM data_flows WHERE name = 'flow 5')
        BEGIN SELECT RAISE(ABORT, 'refused'); END
        """,
    ),
    "postgresql": (
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF new.status = 'success'
            AND new.data_flow_id = (SELECT id FROM data_flows WHERE name = 'flow 5')
            THEN RAISE EXCEPTION 'refused'; END IF; RETURN new; END
        $$
        """,
        """
        CREATE TRIGGER refuse BEFORE UPDATE ON data_flow_runs
        FOR EACH ROW EXECUTE FUNCTION refuse()
        """,
    ),
    "mysql": (
        """
        CREATE TRIGGER refuse BEFORE UPDATE ON data_flow_runs FOR EACH ROW
            IF new.status = 'success'
            AND new.data_flow_id = (SELECT id FROM data_flows WHERE name = 'flow 5')
            THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused'; END IF
        """,
    ),
}


@pytest.fixture
def refusal(dbsession: Session) -> Iterator[None]:
    """Let the database refuse the success of one flow."""
    kind = dbsession.get_bind().dialect.name
    for statement in REFUSALS[kind]:
        dbsession.connection().exec_driver_sql(statement)
    dbsession.commit()
    yield
    dbsession.rollback()
    where = " ON data_flow_runs" if kind == "postgresql" else ""
    dbsession.connection().exec_driver_sql(f"DROP TRIGGER refuse{where}")
    if kind == "postgresql":
        dbsession.connection().exec_driver_sql("DROP FUNCTION refuse")
    dbsession.commit()


@pytest.mark.usefixtures("refusal")
def test_an_end_that_the_database_refuses_costs_no_other_run_its_own(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    names, meeting = [f"flow {number}" for number in range(8)], Meeting(8)
    app = make_app((meeting.work, {"name": "meet", "start": "next"}), **WORKERS)
    post(app)
    add_flows(dbsession, names, "meet")

    reply = post(app).json

    assert (reply["flows_succeeded"], reply["flows_failed"]) == (7, 1)
    assert by_status(dbsession) == {"success": {*names} - {REFUSED}, "failed": {REFUSED}}
    [run] = dbsession.scalars(select(DataFlowRun).where(DataFlowRun.status == "failed"))
    assert "refused" in str(run.error_message)
    assert meeting.names == Counter(names)  # once each


@contextmanager
def before_the_record(heartbeat: Heartbeat, act: Callable[[], None]) -> Iterator[None]:
    """Do something once, after flows have ended and before their success is recorded."""
    done: list[bool] = []

    def look(_connection: object, _cursor: object, statement: str, *_ignored: object) -> None:
        is_record = "data_flow_runs.claim_id IN" in statement
        if is_record and statement.startswith("SELECT data_flow_runs.claim_id") and not done:
            done.append(True)
            act()

    event.listen(heartbeat.engine, "before_cursor_execute", look)
    yield
    event.remove(heartbeat.engine, "before_cursor_execute", look)


def test_a_run_that_was_lost_meanwhile_costs_no_other_run_its_end(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    names, meeting = [f"flow {number}" for number in range(8)], Meeting(8)

    def work(run: Run) -> None:
        meeting.work(run)
        if run.flow_name == REFUSED:  # as if it had been reaped
            with heartbeat.session() as session:
                ended = {"status": "failed", "ended_at": NOON, "error_type": "LeaseExpired"}
                session.execute(update(DataFlowRun).where(DataFlowRun.id == run.id).values(**ended))

    app = make_app((work, {"name": "meet", "start": "next"}), **WORKERS)
    heartbeat = heartbeat_of(app)
    post(app)
    add_flows(dbsession, names, "meet")

    reply = post(app).json

    assert (reply["flows_succeeded"], reply["flows_failed"]) == (7, 1)
    assert by_status(dbsession) == {"success": {*names} - {REFUSED}, "failed": {REFUSED}}
    flow = dbsession.scalars(select(DataFlow).where(DataFlow.name == REFUSED)).one()
    assert flow.last_success_at is None


if DATABASE != "sqlite":  # which has one writer, and no locks of rows

    def test_a_row_that_another_transaction_holds_delays_no_other_end(
        make_app: MakeApp, post: Post, dbsession: Session
    ) -> None:
        names, meeting, gate = [f"flow {number}" for number in range(8)], Meeting(8), Gate()

        def work(run: Run) -> None:
            meeting.work(run)
            gate.hold()

        app = make_app((work, {"name": "meet", "start": "next"}), **WORKERS)
        post(app)
        add_flows(dbsession, names, "meet")
        replies: list[Any] = []
        beat = threading.Thread(target=lambda: replies.append(post(app).json))
        beat.start()
        gate.wait_for_arrival()
        dbsession.scalars(select(DataFlow).where(DataFlow.name == REFUSED).with_for_update()).one()
        gate.open()
        others = select(DataFlowRun.id).where(DataFlowRun.status == "success")
        wait_until(lambda: len(dbsession.scalars(others).all()) == 7)
        in_progress = select(DataFlowRun.id).where(DataFlowRun.status == "in_progress")
        assert len(dbsession.scalars(in_progress).all()) == 1
        dbsession.rollback()
        beat.join(SECONDS)

        assert replies[0]["flows_succeeded"] == 8
        settle()


def test_successes_outlive_a_transaction_that_the_database_breaks_off(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    names, meeting = [f"flow {number}" for number in range(8)], Meeting(8)
    app = make_app((meeting.work, {"name": "meet", "start": "next"}), **WORKERS)
    post(app)
    add_flows(dbsession, names, "meet")

    def break_off() -> None:
        raise ConnectionError("the network is gone")

    with before_the_record(heartbeat_of(app), break_off):
        reply = post(app).json

    assert reply["flows_succeeded"] == 8
    assert by_status(dbsession) == {"success": {*names}}
    assert meeting.names == Counter(names)


def test_a_success_does_not_wait_for_a_condition_that_takes_long(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    asked, seen = threading.Event(), list[bool]()

    def first(_run: Run) -> None:
        clock.advance(360)  # so that the condition is asked while the second one runs

    def second(_run: Run) -> None:
        assert asked.wait(SECONDS)

    def condition(_run: Run) -> bool:
        asked.set()
        wait_until(lambda: recorded("second"))
        seen.append(True)
        return True

    def recorded(name: str) -> bool:
        with heartbeat_of(app).session() as session:
            runs = select(DataFlowRun.status).join(DataFlowRun.data_flow)
            return session.scalar(runs.where(DataFlow.name == name)) == "success"

    conditional = idle, {"every": "5m", "start": "next", "when": condition}
    once = {"every": "1d"}
    app = make_app((first, once), (second, once), conditional, **{"heartbeat.wait": "1h"})

    assert post(app).json["flows_succeeded"] == 3
    assert seen == [True]


# ---------------------------------------------------------------------------------------------
# Runs that are claimed ahead


AHEAD = pytest.mark.local_executor("claims ahead, and releases")


@pytest.fixture
def far_ahead(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Claim ahead as if runs had ended a moment ago, until what is returned is called."""
    monkeypatch.setattr(local, "AHEAD", float(SECONDS))
    return lambda: monkeypatch.setattr(local, "AHEAD", 0.0)


class Queue:
    """Quick flows before and behind a slow one, for one worker."""

    quick = tuple(f"quick {number}" for number in range(4))
    waiting = tuple(f"waiting {number}" for number in range(FLOWS))

    def __init__(self, gate: Gate) -> None:
        self.gate, self.calls = gate, Counter[str]()

    def work(self, run: Run) -> None:
        """Do nothing, unless it is the slow one."""
        self.calls[run.flow_name] += 1
        if run.flow_name == "slow":
            self.gate.hold()

    def fill(self, dbsession: Session) -> None:
        """Make them due in order."""
        add_flows(dbsession, [*self.quick, "slow", *self.waiting], "work")

    def begin(
        self, make_app: MakeApp, post: Post, dbsession: Session
    ) -> tuple[TestApp, threading.Thread]:
        """Beat an application with one worker until the slow one has it."""
        flow = self.work, {"name": "work", "start": "next"}
        app = make_app(flow, **{"heartbeat.workers": "1"})
        post(app)
        self.fill(dbsession)
        beat = threading.Thread(target=lambda: post(app))
        beat.start()
        self.gate.wait_for_arrival()
        return app, beat


@AHEAD
def test_a_run_that_has_not_begun_after_a_second_goes_to_another_process(
    make_app: MakeApp,
    post: Post,
    dbsession: Session,
    gate: Gate,
    far_ahead: Callable[[], None],
) -> None:
    queue = Queue(gate)
    flow = queue.work, {"name": "work", "start": "next"}
    app, another = (make_app(flow, **{"heartbeat.workers": "1"}) for _ in range(2))
    post(app)
    queue.fill(dbsession)
    replies: list[Any] = []
    beat = threading.Thread(target=lambda: replies.append(post(app).json))
    beat.start()
    gate.wait_for_arrival()
    far_ahead()
    wait_until(lambda: "pending" in by_status(dbsession))
    assert by_status(dbsession)["pending"] <= {*queue.waiting}

    post(another)
    assert by_status(dbsession) == {
        "in_progress": {"slow"},
        "success": {*queue.quick, *queue.waiting},
    }
    gate.open()
    beat.join(SECONDS)

    # What it has released is no longer a run of this beat.
    names = ["slow", *queue.quick, *queue.waiting]
    triggered = replies[0]["flows_triggered"]
    assert triggered == replies[0]["flows_succeeded"] < len(names)
    assert queue.calls == Counter(names)


@AHEAD
@pytest.mark.usefixtures("far_ahead")
def test_runs_that_have_not_begun_are_released_when_the_process_stops(
    make_app: MakeApp, post: Post, dbsession: Session, gate: Gate
) -> None:
    queue = Queue(gate)
    app, beat = queue.begin(make_app, post, dbsession)
    claimed = by_status(dbsession)["in_progress"] - {*queue.quick}
    assert claimed > {"slow"}

    heartbeat_of(app).executor.stop()
    wait_until(lambda: by_status(dbsession)["in_progress"] == {"slow"})
    # More may have been claimed since, and are released too.
    assert by_status(dbsession)["pending"] >= claimed - {"slow"}
    row = dbsession.scalars(select(DataFlowRun).where(DataFlowRun.status == "pending")).first()
    assert row
    assert (row.claim_id, row.worker, row.lease_expires_at, row.started_at) == (None,) * 4
    gate.open()
    beat.join(SECONDS)

    assert not {*queue.waiting} & {*queue.calls}


@AHEAD
@pytest.mark.usefixtures("far_ahead")
def test_a_flow_that_is_disabled_before_its_run_begins_is_not_run(
    make_app: MakeApp, post: Post, dbsession: Session, gate: Gate
) -> None:
    queue = Queue(gate)
    _, beat = queue.begin(make_app, post, dbsession)
    dbsession.execute(update(DataFlow).where(DataFlow.name != "slow").values(enabled=False))
    dbsession.commit()

    wait_until(lambda: by_status(dbsession)["in_progress"] == {"slow"})
    gate.open()
    beat.join(SECONDS)

    assert not {*queue.waiting} & {*queue.calls}
    assert by_status(dbsession)["failed"] <= {*queue.waiting}
