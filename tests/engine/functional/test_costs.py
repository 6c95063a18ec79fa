"""What beats and runs ask of the database: statements and commits, so that none creeps in."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Heartbeat, Run

from ..conftest import MakeApp, heartbeat_of
from ..factories import data_flow

Post = Callable[..., Any]
RUN = "heartbeat-worker"  # the name of the threads on which runs are executed
BEAT = "heartbeat-beat"
FLOWS = 24
WRITES = ("INSERT", "UPDATE", "DELETE")


def idle(_run: Run) -> None:
    """Do nothing."""


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
    assert counts == {(BEAT, "statements"): 2, (BEAT, "writes"): 1, (BEAT, "commits"): 1}


def test_a_run_that_asks_nothing_costs_two_statements_and_a_commit_at_most(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    app = make_idle_app(make_app, post, **{"heartbeat.workers": "8"})
    dbsession.add_all([data_flow(name=f"flow {n}", handler="idle") for n in range(FLOWS)])
    dbsession.commit()

    with counted(heartbeat_of(app)) as counts:
        reply = post(app).json

    assert reply["flows_succeeded"] == FLOWS
    # The ends of the run and of its flow: PostgreSQL writes both by one, which needs no commit.
    chained = heartbeat_of(app).engine.dialect.name == "postgresql"
    assert counts[RUN, "statements"] == (1 if chained else 2) * FLOWS
    assert counts[RUN, "commits"] == (0 if chained else FLOWS)


@pytest.mark.parametrize("flows", [1, 8])
def test_a_claim_writes_no_more_often_for_eight_runs_than_for_one(
    make_app: MakeApp, post: Post, dbsession: Session, flows: int
) -> None:
    app = make_idle_app(make_app, post, **{"heartbeat.workers": "8"})
    dbsession.add_all([data_flow(name=f"flow {n}", handler="idle") for n in range(flows)])
    dbsession.commit()

    with counted(heartbeat_of(app)) as counts:
        assert post(app).json["flows_succeeded"] == flows

    # The flows, their runs, and twice the beat's row.
    assert counts[BEAT, "writes"] == 4


def test_one_due_flow_costs_a_beat_three_transactions(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    app = make_idle_app(make_app, post)
    dbsession.add(data_flow(name="due", handler="idle"))
    dbsession.commit()

    with counted(heartbeat_of(app)) as counts:
        assert post(app).json["flows_succeeded"] == 1

    # What there is to do, the claim, and whether there is more to do with the beat's row.
    assert counts[BEAT, "commits"] == 3
    assert counts[BEAT, "statements"] <= 10
