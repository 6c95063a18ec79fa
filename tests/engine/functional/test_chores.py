"""What optional modules have done at the end of a beat, which must be none of the beat's worry."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from data_flows.heartbeat import Heartbeat, Run
from data_flows.heartbeat.models import DataFlowBeat, DataFlowRun

from ..conftest import FakeClock, MakeApp, heartbeat_of
from .conftest import SECONDS, Gate, settle

Post = Callable[..., Any]


def tick(_run: Run) -> None:
    """Do nothing, every five minutes."""


def test_a_chore_is_done_when_the_runs_have_ended_and_the_beat_is_recorded(
    make_app: MakeApp, post: Post
) -> None:
    seen: list[tuple[list[str], list[int]]] = []
    app = make_app(tick)

    def look(heartbeat: Heartbeat) -> None:
        with heartbeat.session() as session:
            statuses = session.scalars(select(DataFlowRun.status)).all()
            succeeded = session.scalars(select(DataFlowBeat.flows_succeeded)).all()
            seen.append(([*statuses], [*succeeded]))

    heartbeat_of(app).chores.append(look)
    post(app)
    post(app)  # one with nothing to run

    assert seen == [(["success"], [1]), (["success"], [1, 0])]


def test_a_chore_that_fails_changes_neither_the_beat_nor_the_next_chore(
    make_app: MakeApp,
    post: Post,
    dbsession: Session,
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[str] = []
    app = make_app(tick)

    def fail(_heartbeat: Heartbeat) -> None:
        message = "out of soap"
        raise OSError(message)

    heartbeat_of(app).chores += [fail, lambda _heartbeat: done.append("next")]
    reply = post(app).json

    assert reply["flows_succeeded"] == 1
    assert done == ["next"]
    assert dbsession.scalars(select(DataFlowBeat.flows_succeeded)).all() == [1]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [OSError]


def test_the_reply_does_not_tell_of_the_time_that_chores_took(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app(tick)

    heartbeat_of(app).chores.append(lambda _heartbeat: clock.advance(7))
    reply = post(app).json

    assert reply["duration"] == 0
    assert dbsession.scalars(select(DataFlowBeat.duration)).all() == [0]


@pytest.mark.parametrize(
    ("settings", "headers"),
    [({"heartbeat.wait": "0s"}, {}), ({}, {"Prefer": "respond-async"})],
    ids=["no time to wait", "asked not to wait"],
)
def test_a_caller_that_does_not_wait_for_runs_does_not_wait_for_chores(
    make_app: MakeApp,
    post: Post,
    gate: Gate,
    settings: dict[str, str],
    headers: dict[str, str],
) -> None:
    done = threading.Event()
    app = make_app(**settings)

    def clean(_heartbeat: Heartbeat) -> None:
        gate.hold()
        done.set()

    heartbeat_of(app).chores.append(clean)
    response = post(app, **headers)
    gate.wait_for_arrival()

    assert not done.is_set()
    assert response.json["flows_due"] == 0
    gate.open()
    assert done.wait(SECONDS)
    settle()
