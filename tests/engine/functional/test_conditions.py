"""Flows that wait for others (`after`) or for a condition of their own (`when`)."""

import logging
import re
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.errors import DeclarationError
from data_flows.heartbeat.models import DataFlow, DataFlowRun
from data_flows.heartbeat.runs.request import claim_by_hand

from ..conftest import FakeClock, MakeApp, heartbeat_of
from ..entrances import PLACE, both_entrances
from ..factories import NOON, data_flow
from ..notes import Note
from .conftest import SECONDS, settle

Post = Callable[..., Any]

MINUTE = timedelta(minutes=1)


def extract(_run: Run) -> None:
    """Do nothing."""


def transform(_run: Run) -> None:
    """Do nothing."""


def load(_run: Run) -> None:
    """Do nothing."""


def order(app: TestApp) -> list[str]:
    """Return the names of the flows that have run, in that order."""
    with heartbeat_of(app).session() as session:
        statement = select(DataFlow.name).join(DataFlow.runs).order_by(DataFlowRun.id)
        return list(session.scalars(statement))


def row(app: TestApp, name: str) -> DataFlow:
    with heartbeat_of(app).session() as session:
        return session.scalars(select(DataFlow).where(DataFlow.name == name)).one()


# ---------------------------------------------------------------------------------------------
# after


def test_a_chain_whose_parts_are_due_runs_in_one_beat_in_order(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app((load, {"after": ["transform"]}), (transform, {"after": ["extract"]}), extract)

    first = post(app).json
    clock.advance(300)
    post(app)

    assert (first["flows_due"], first["flows_triggered"]) == (1, 3)
    assert order(app) == ["extract", "transform", "load"] * 2


def test_a_flow_waits_until_each_named_one_has_succeeded(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    failing = True

    def sometimes(_run: Run) -> None:
        if failing:
            raise ValueError

    app = make_app((load, {"after": ["extract", "sometimes"]}), extract, sometimes)
    post(app)
    waited = order(app)
    failing = False
    clock.advance(300)
    reply = post(app).json

    assert sorted(waited) == ["extract", "sometimes"]
    assert order(app)[-1] == "load"
    assert reply["flows_triggered"] == 3


def test_a_flow_waits_for_a_success_after_its_own_last_one_began(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app((load, {"every": "1m", "after": ["extract"]}), (extract, {"every": "3m"}))

    for _ in range(7):
        post(app)
        clock.advance(60)

    assert order(app) == ["extract", "load"] * 3


def test_a_success_while_it_runs_counts_for_its_next_run(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    runs = []

    def slow(run: Run) -> None:
        runs.append(run.id)
        if len(runs) == 1:
            done = update(DataFlow).where(DataFlow.name == "extract")
            dbsession.execute(done.values(last_success_at=clock.now() + MINUTE / 2))
            dbsession.commit()
            clock.advance(60)

    flows = (slow, {"every": "1m", "after": ["extract"]}), (extract, {"every": "1d"})
    app = make_app(*flows, **{"heartbeat.wait": "5m"})
    post(app)

    assert order(app) == ["extract", "slow", "slow"]


def test_what_is_held_is_not_counted_as_due_and_delays_nothing(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app((load, {"after": ["extract"]}), extract, transform, **{"heartbeat.workers": "1"})
    post(app)
    dbsession.execute(update(DataFlow).where(DataFlow.name == "extract").values(enabled=False))
    # Held for longer than anything else is due.
    dbsession.execute(
        update(DataFlow).where(DataFlow.name == "load").values(next_run_at=NOON - 60 * MINUTE)
    )
    dbsession.commit()

    clock.advance(300)
    reply = post(app).json

    assert (reply["flows_due"], reply["flows_triggered"]) == (1, 1)
    assert order(app)[-1] == "transform"


def test_slots_that_passed_while_it_was_held_are_counted(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app((load, {"after": ["extract"]}), (extract, {"every": "20m"}))
    for _ in range(5):
        post(app)
        clock.advance(300)

    missed = select(DataFlowRun.missed_slots).join(DataFlowRun.data_flow)
    assert dbsession.scalars(
        missed.where(DataFlow.name == "load").order_by(DataFlowRun.id)
    ).all() == [0, 3]


def test_a_manual_run_waits_for_no_other_flow(make_app: MakeApp, post: Post) -> None:
    app = make_app((load, {"after": ["extract"]}), (extract, {"start": "next"}))
    post(app)
    heartbeat = heartbeat_of(app)

    with heartbeat.session() as session:
        assert claim_by_hand(session, heartbeat, "load")


def test_each_row_of_a_handler_waits_for_itself(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app((load, {"after": ["extract"]}), (extract, {"every": "1d"}))
    post(app)
    clock.advance(300)
    dbsession.add(data_flow(name="load again", handler="load", next_run_at=clock.now()))
    dbsession.commit()

    reply = post(app).json

    assert (reply["flows_due"], order(app)) == (1, ["extract", "load", "load again"])


@both_entrances
@pytest.mark.parametrize(
    ("flows", "problem"),
    [
        (
            [(load, {"after": ["extrakt"]}), extract],
            "after is ['extrakt']: no flow is called 'extrakt'; did you mean extract?",
        ),
        (
            [(load, {"after": ["extract"]}), (extract, {"after": ["load"]})],
            "waits for itself by after: ",
        ),
        ([(load, {"after": ["load"]})], "waits for itself by after: load <- load"),
    ],
)
def test_what_can_never_come_after_is_refused_with_the_place(
    make_app: MakeApp, flows: list[Any], problem: str
) -> None:
    with pytest.raises(DeclarationError) as caught:
        make_app(*flows)

    [line] = str(caught.value).splitlines()
    assert problem in line
    assert re.search(PLACE, line)


# ---------------------------------------------------------------------------------------------
# when


def test_a_flow_runs_once_its_condition_allows_it(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    answers: list[object] = [False, "no file yet", "", True]
    app = make_app((load, {"when": lambda _run: answers.pop(0)}))

    seen = []
    for _ in range(4):
        reply = post(app).json
        seen.append((reply["flows_due"], reply["flows_triggered"], row(app, "load").held_because))
        clock.advance(60)

    no = "its condition is not met"
    assert seen == [(0, 0, no), (0, 0, "no file yet"), (0, 0, no), (1, 1, None)]


def test_a_condition_sees_the_run_that_would_be(make_app: MakeApp, post: Post) -> None:
    seen: list[Run] = []

    def when(run: Run) -> bool:
        run.log.info("asked")
        seen.append(run)
        return True

    post(make_app((load, {"when": when, "configuration": {"region": "eu"}})))

    [run] = seen
    assert (run.flow_name, run.scheduled_for, run.attempt) == ("load", NOON, 1)
    assert (run.window.start, run.window.end) == (NOON - 5 * MINUTE, NOON)
    assert run.configuration == {"region": "eu"}


@pytest.mark.usefixtures("notes")
def test_a_condition_reads_and_writes_nothing(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    def read(run: Run) -> bool:
        return run.session.scalars(select(DataFlow.name)).first() is not None

    def write(run: Run) -> bool:
        run.session.execute(insert(Note).values(name="condition", mark="1"))
        return True

    app = make_app((load, {"when": read}), (extract, {"when": write}), transform)
    reply = post(app).json

    assert (reply["flows_triggered"], reply["flows_succeeded"]) == (2, 2)
    assert sorted(order(app)) == ["load", "transform"]
    assert "its condition failed: " in str(row(app, "extract").held_because)
    assert dbsession.scalars(select(Note)).all() == []


def test_a_condition_must_not_end_its_transaction(make_app: MakeApp, post: Post) -> None:
    def when(run: Run) -> bool:
        run.session.commit()
        return True

    app = make_app((load, {"when": when}))

    assert post(app).json["flows_triggered"] == 0
    assert "called run.session.commit()" in str(row(app, "load").held_because)


@pytest.mark.parametrize("error", [ValueError("no such bird"), SystemExit("no such bird")])
def test_a_condition_that_raises_is_a_reason_and_stops_no_other_flow(
    make_app: MakeApp, post: Post, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def when(_run: Run) -> bool:
        raise error

    app = make_app((load, {"when": when}), extract)
    reply = post(app).json

    assert (reply["flows_due"], reply["flows_succeeded"]) == (1, 1)
    expected = f"its condition failed: {type(error).__name__}: no such bird"
    assert row(app, "load").held_because == expected
    assert "the condition of load failed" in caplog.text


def test_a_condition_that_goes_on_failing_is_logged_once(
    make_app: MakeApp, post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [ValueError("no such bird"), ValueError("no such bird"), ValueError("no such owl")]

    def when(_run: Run) -> bool:
        raise errors.pop(0)

    app = make_app((load, {"when": when}))
    for _beat in range(3):
        post(app)

    logged = [each.getMessage() for each in caplog.records if "condition of" in each.getMessage()]
    assert [message.splitlines()[-1] for message in logged] == [
        "ValueError: no such bird",
        "ValueError: no such owl",
    ]


def test_a_condition_is_asked_once_a_beat(make_app: MakeApp, post: Post, clock: FakeClock) -> None:
    asked = []

    def when(run: Run) -> bool:
        asked.append(run.flow_name)
        return len(asked) > 1

    app = make_app((load, {"when": when}), extract, transform, **{"heartbeat.workers": "1"})
    post(app)
    once = len(asked)
    clock.advance(60)
    post(app)

    assert (once, len(asked)) == (1, 2)


def test_a_condition_of_what_is_not_due_is_not_asked(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    asked = []

    def when(run: Run) -> bool:
        asked.append(run.flow_name)
        return True

    app = make_app((load, {"when": when, "after": ["extract"]}), (extract, {"start": "next"}))
    post(app)
    before = list(asked)
    clock.advance(300)
    post(app)

    assert (before, asked) == ([], ["load"])


def test_a_flow_that_comes_to_be_due_while_others_are_asked_is_asked_too(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    def slowly(_run: Run) -> bool:
        clock.advance(300)
        return True

    # Due at once, while the first is asked, and while the second is.
    flows = (
        (load, {"when": slowly}),
        (transform, {"start": "next", "when": slowly}),
        (extract, {"every": "10m", "start": "next", "when": lambda _run: "not now"}),
    )
    app = make_app(*flows, **{"heartbeat.wait": "1h"})
    post(app)

    assert set(order(app)) == {"load", "transform"}
    assert row(app, "extract").held_because == "not now"


def test_a_condition_that_hangs_keeps_no_other_beat(make_app: MakeApp, post: Post) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def when(_run: Run) -> bool:
        asked.set()
        return go_on.wait(SECONDS)

    app = make_app((load, {"when": when}), extract)
    post(app, status=202, Prefer="wait=0")
    assert asked.wait(SECONDS)
    meanwhile = post(app).json
    go_on.set()
    settle()

    assert (meanwhile["flows_due"], meanwhile["flows_succeeded"]) == (1, 1)
    assert order(app) == ["extract", "load"]


def test_a_condition_that_takes_long_is_logged(
    make_app: MakeApp, post: Post, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    def when(_run: Run) -> bool:
        clock.advance(1.5)
        return True

    caplog.set_level(logging.WARNING)
    post(make_app((load, {"when": when})))

    assert "the condition of load took 1.5 s" in caplog.text


def test_a_configuration_that_cannot_be_read_is_the_matter_of_the_run(
    make_app: MakeApp, post: Post, dbsession: Session, clock: FakeClock
) -> None:
    app = make_app((load, {"when": lambda _run: True}))
    post(app)
    dbsession.execute(update(DataFlow).values(configuration=["no object"]))
    dbsession.commit()

    clock.advance(300)

    assert post(app).json["flows_failed"] == 1
