"""A beat runs a flow if and only if `why` has said so before, whatever state its rows are in."""

from datetime import timedelta
from functools import reduce
from operator import or_
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlow, DataFlowBeat, DataFlowRun

from ..conftest import TOKEN, FakeClock, MakeApp
from ..factories import NOON, data_flow, data_flow_beat, data_flow_run
from ..functional.conftest import settle
from ..functional.operated import AS_OPERATOR, SECRET

MOMENT, HOUR = timedelta(microseconds=1), timedelta(hours=1)
# Around the moment at which a slot, a delay or a hold is over.
TIMES = [NOON - 8 * HOUR, NOON - MOMENT, NOON, NOON + MOMENT, NOON + HOUR]
# How the one sentence begins or ends that promises a run.
PROMISES = (": the next beat runs it.", ": the next beat starts it.")

# What the condition of the flow `held` answers.
says = {"yes": True}


def count(_run: Run) -> None:
    """Count birds."""


def may_run(_run: Run) -> bool:
    """Answer as the test has said."""
    return says["yes"]


# A flow that the next beat runs, and what each may change of that: its row, its run, and when the
# flow `first` succeeded, for which `in turn` waits.
DUE = {"handler": "count", "next_run_at": NOON - HOUR}
HANDLERS = ["at night", "held", "in turn", "no such handler"]
CHANGES: list[dict[str, Any]] = [
    *({"handler": handler} for handler in HANDLERS),
    {"enabled": False},
    {"enabled": False, "run": {"status": "pending", "trigger": "retry"}},
    *({"next_run_at": time} for time in TIMES),
    *({"backfill_until": time} for time in TIMES),
    {"last_success_started_at": NOON - 2 * HOUR},
    *({"first_succeeded": NOON - hours * HOUR} for hours in (1, 3)),
    {"held_because": "the tide was out"},
    {"skipped_slots": 3},
    *(
        {"run": {"status": "pending", "trigger": trigger, "not_before": time}}
        for trigger in ("manual", "schedule", "retry", "backfill")
        for time in (None, *TIMES)
    ),
    {"run": {"status": "in_progress", "claim_id": "another's", "started_at": NOON}},
    {"run": {"status": "failed", "ended_at": NOON, "trigger": "schedule"}},
]


@pytest.fixture
def app(make_app: MakeApp) -> TestApp:
    """Make an application with a handler for each obstacle that an option makes."""
    return make_app(
        (count, {"start": "next"}),
        (count, {"name": "first", "start": "next"}),
        (count, {"name": "at night", "between": "22:00-06:00"}),
        (count, {"name": "held", "when": may_run}),
        (count, {"name": "in turn", "after": ["first"]}),
        **SECRET,
    )


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(changes=st.lists(st.sampled_from(CHANGES), max_size=3))
def test_a_beat_runs_a_flow_if_and_only_if_why_predicts_it(
    app: TestApp, dbsession: Session, clock: FakeClock, changes: list[dict[str, Any]]
) -> None:
    clock.time = NOON
    store(dbsession, reduce(or_, changes, DUE))
    before = starts(dbsession)

    why = app.get("/heartbeat/flows/birds", headers=AS_OPERATOR).json["why"]
    # It waits for no slot that is about to come, and its runs have ended when it has settled.
    app.post("/heartbeat", headers={"Authorization": f"Bearer {TOKEN}", "Prefer": "wait=0"})
    settle()

    assert (starts(dbsession) != before) is why.endswith(PROMISES), why


def store(dbsession: Session, state: dict[str, Any]) -> None:
    """Replace all rows by this state, a minute after a beat."""
    columns = dict(state)
    run, first_succeeded = columns.pop("run", None), columns.pop("first_succeeded", None)
    # The condition was asked by the beat before, and answers the same.
    says["yes"] = "held_because" not in columns
    for table in (DataFlowRun, DataFlow, DataFlowBeat):
        dbsession.execute(delete(table))
    dbsession.add(data_flow_beat(received_at=NOON - timedelta(minutes=1)))
    dbsession.add(data_flow(name="first", enabled=False, last_success_at=first_succeeded))
    birds = data_flow(name="birds", created_at=NOON - timedelta(days=3), **columns)
    dbsession.add(birds)
    if run is not None:
        dbsession.add(data_flow_run(data_flow=birds, **run))
    dbsession.commit()


def starts(dbsession: Session) -> list[tuple[Any, ...]]:
    """Return the runs of the flow and when each began, as they are now."""
    dbsession.rollback()
    runs = select(DataFlowRun.id, DataFlowRun.started_at).join(DataFlowRun.data_flow)
    return [tuple(row) for row in dbsession.execute(runs.where(DataFlow.name == "birds"))]
