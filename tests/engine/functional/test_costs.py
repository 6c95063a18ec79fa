"""What beats and runs ask of the database: statements and commits, so that none creeps in."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Heartbeat, Run
from data_flows.heartbeat.run import ClaimedRun
from data_flows.heartbeat.runs.request import claim_pending

from ..conftest import MakeApp, heartbeat_of
from ..factories import NOON, data_flow, data_flow_run
from ..notes import Note

Post = Callable[..., Any]
RUN = "heartbeat-worker"  # the name of the threads on which runs are executed
BEAT = "heartbeat-beat"
FLOWS = 24
pytestmark = pytest.mark.usefixtures("notes")
STATEMENTS = pytest.mark.local_executor("counts the statements of its threads and of its beats")

WRITES = ("INSERT", "UPDATE", "DELETE")


def idle(_run: Run) -> None:
    """Do nothing."""


def writing(run: Run) -> None:
    """Write one row."""
    run.session.execute(insert(Note).values(name=run.flow_name, mark=f"run {run.id}"))


@contextmanager
def counted(heartbeat: Heartbeat) -> Iterator[Counter[tuple[str, str]]]:
    """Count statements and commits, by the name of the thread that asks for them."""
    counts: Counter[tuple[str, str]] = Counter()

    def count(what: str) -> None:
        counts[threading.current_thread().name, what] += 1

    def statement(_connection: object, _cursor: object, text: str, *_ignored: object) -> None:
        count("statements")
        if text.startswith(WRITES):
            count("writes")
        if text.startswith("INSERT"):
            count("inserts")

    def commit(_connection: Connection) -> None:
        count("commits")

    for engine in (heartbeat.engine, heartbeat.flow_engine):
        event.listen(engine, "before_cursor_execute", statement)
        event.listen(engine, "commit", commit)
    yield counts
    for engine in (heartbeat.engine, heartbeat.flow_engine):
        event.remove(engine, "before_cursor_execute", statement)
        event.remove(engine, "commit", commit)


def make_idle_app(make_app: MakeApp, post: Post, **ini: str) -> TestApp:
    """Make an application whose flow has just run, and that has done the chores of its start."""
    app = make_app((idle, {"every": "1h"}), **ini)
    post(app)
    return app


def test_a_beat_with_nothing_due_asks_once_and_writes_its_row(
    make_app: MakeApp, post: Post
) -> None:
    app = make_idle_app(make_app, post)

    with counted(heartbeat_of(app)) as counts:
        reply = post(app).json

    assert reply["flows_due"] == 0
    assert counts == {
        (BEAT, "statements"): 2,
        (BEAT, "writes"): 1,
        (BEAT, "inserts"): 1,
        (BEAT, "commits"): 1,
    }


@STATEMENTS
def test_a_run_that_asks_nothing_costs_no_statement_of_its_own(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    app = make_idle_app(make_app, post, **{"heartbeat.workers": "8"})
    dbsession.add_all([data_flow(name=f"flow {n}", handler="idle") for n in range(FLOWS)])
    dbsession.commit()

    with counted(heartbeat_of(app)) as counts:
        reply = post(app).json

    assert reply["flows_succeeded"] == FLOWS
    assert counts[RUN, "statements"] == counts[RUN, "commits"] == 0
    # The beat records and claims several at a time.
    assert counts[BEAT, "commits"] < FLOWS


@STATEMENTS
def test_a_run_that_writes_costs_two_statements_more_and_one_commit(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    app = make_app((writing, {"every": "1h"}), **{"heartbeat.workers": "8"})
    post(app)
    dbsession.add_all([data_flow(name=f"flow {n}", handler="writing") for n in range(FLOWS)])
    dbsession.commit()

    with counted(heartbeat_of(app)) as counts:
        reply = post(app).json

    assert reply["flows_succeeded"] == FLOWS
    # Its own one; the ends of the run and of its flow, which PostgreSQL writes by one statement;
    # and the limits for them, which SQLite has not.
    ends = {"postgresql": 1 + 1, "mysql": 2 + 1, "sqlite": 2}
    own_and_ends = 1 + ends[heartbeat_of(app).engine.dialect.name]
    assert counts[RUN, "statements"] <= own_and_ends * FLOWS
    assert counts[RUN, "commits"] == FLOWS


@pytest.mark.parametrize("flows", [1, 8])
def test_a_claim_inserts_no_more_often_for_eight_runs_than_for_one(
    make_app: MakeApp, post: Post, dbsession: Session, flows: int
) -> None:
    app = make_idle_app(make_app, post, **{"heartbeat.workers": "8"})
    dbsession.add_all([data_flow(name=f"flow {n}", handler="idle") for n in range(flows)])
    dbsession.commit()

    with counted(heartbeat_of(app)) as counts:
        assert post(app).json["flows_succeeded"] == flows

    # The runs, and the beat's row.
    assert counts[BEAT, "inserts"] == 2


@STATEMENTS
def test_one_due_flow_costs_a_beat_three_transactions(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    app = make_idle_app(make_app, post)
    dbsession.add(data_flow(name="due", handler="idle"))
    dbsession.commit()

    with counted(heartbeat_of(app)) as counts:
        assert post(app).json["flows_succeeded"] == 1

    # What there is to do; the claim; the record, with whether there is more to do.
    assert counts[BEAT, "commits"] == 3
    # Both looks begin with a glance, which mostly is the only question of the second one.
    assert counts[BEAT, "statements"] <= 13


def test_a_worker_of_celery_takes_a_run_by_two_statements_and_one_commit(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    app = make_idle_app(make_app, post)
    flow = data_flow(name="handed over", handler="idle", window_starts_at=NOON)
    run = data_flow_run(data_flow=flow, window_start=NOON, window_end=NOON, sent_at=NOON)
    dbsession.add_all([flow, run])
    dbsession.commit()
    heartbeat, taken = heartbeat_of(app), list[ClaimedRun]()
    taking = threading.Thread(target=lambda: taken.extend(claim_pending(heartbeat, [run.id])))
    taking.name = RUN

    with counted(heartbeat) as counts:
        taking.start()
        taking.join()

    assert [each.id for each in taken] == [run.id]
    assert (counts[RUN, "statements"], counts[RUN, "commits"]) == (2, 1)
