"""A beat that comes a moment before a slot: it waits for it, and nothing starts before its time."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.clock import Clock as MachineClock
from data_flows.heartbeat.db import begin_writing
from data_flows.heartbeat.models import DataFlow, DataFlowBeat, DataFlowRun
from data_flows.heartbeat.runs.beat import run_beat

from ..conftest import DATABASE, FakeClock, MakeApp, heartbeat_of
from ..factories import NOON, data_flow, data_flow_run
from .conftest import Gate, settle

Post = Callable[..., Any]

SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=s) for s in (1, 60, 3_600, 86_400))
EARLY = pytest.mark.parametrize(
    ("schedule", "tolerance"),
    [
        ({"every": "10s"}, 1),
        ({"every": "1m"}, 6),
        ({"every": "5m"}, 30),
        ({"every": "299s"}, 29.9),
        ({"every": "1d"}, 30),
        ({"every": None, "cron": "0 * * * *"}, 6),
        ({"every": None, "cron": "0 0 * * *"}, 6),
    ],
)

WITHIN_ITS_TIME = pytest.mark.local_executor("with Celery, a beat waits after its reply, too")


class Clock(FakeClock):
    """A clock that calls `meanwhile` at each sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeps = 0
        self.meanwhile: Callable[[], object] = lambda: None

    def sleep(self, seconds: float) -> None:
        """Move ahead instead of waiting."""
        self.sleeps += 1
        self.meanwhile()
        super().sleep(seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def tick(_run: Run) -> None:
    """Do nothing."""


def tock(_run: Run) -> None:
    """Do nothing either."""


def beat_at(app: TestApp, post: Post, clock: FakeClock, moment: datetime, **headers: str) -> Any:
    """Beat at a moment; return the reply."""
    clock.advance((moment - clock.now()).total_seconds())
    return post(app, **headers).json


def next_slot(dbsession: Session, name: str = "tick") -> datetime:
    """Return when a flow is due next."""
    dbsession.rollback()
    return dbsession.scalars(select(DataFlow.next_run_at).where(DataFlow.name == name)).one()


def runs(dbsession: Session) -> list[DataFlowRun]:
    """Return all runs, oldest first."""
    dbsession.rollback()
    return [*dbsession.scalars(select(DataFlowRun).order_by(DataFlowRun.id))]


def times(dbsession: Session) -> list[tuple[datetime | None, datetime | None, int]]:
    """Return slot, start and missed slots of each run."""
    return [(run.scheduled_for, run.started_at, run.missed_slots) for run in runs(dbsession)]


def add_flow(dbsession: Session, name: str, slot: datetime, **columns: Any) -> None:
    """Store a flow of the handler `tick` that was claimed on the day before."""
    yesterday = dict.fromkeys(("created_at", "updated_at", "last_slot_at"), NOON - DAY)
    columns = {"handler": "tick", "next_run_at": slot, **yesterday, **columns}
    dbsession.add(data_flow(name=name, **columns))
    dbsession.commit()


# ---------------------------------------------------------------------------------------------
# How early, and what happens then


@EARLY
def test_a_beat_within_the_tolerance_waits_and_runs_the_slot_at_its_time(
    make_app: MakeApp,
    post: Post,
    clock: Clock,
    dbsession: Session,
    schedule: dict[str, Any],
    *,
    tolerance: float,
) -> None:
    app = make_app((tick, {"start": "next", **schedule}))
    post(app)
    slot = next_slot(dbsession)

    reply = beat_at(app, post, clock, slot - (tolerance - 0.01) * SECOND, Prefer="wait=60")

    assert (reply["flows_due"], reply["flows_triggered"], reply["flows_succeeded"]) == (1, 1, 1)
    assert reply["duration"] == pytest.approx(tolerance - 0.01)
    assert times(dbsession) == [(slot, slot, 0)]


@EARLY
def test_a_beat_outside_the_tolerance_leaves_the_slot(
    make_app: MakeApp,
    post: Post,
    clock: Clock,
    dbsession: Session,
    schedule: dict[str, Any],
    *,
    tolerance: float,
) -> None:
    app = make_app((tick, {"start": "next", **schedule}))
    post(app)
    slot = next_slot(dbsession)

    reply = beat_at(app, post, clock, slot - (tolerance + 0.01) * SECOND, Prefer="wait=60")

    assert (reply["flows_due"], reply["flows_triggered"], reply["duration"]) == (0, 0, 0)
    assert runs(dbsession) == []


def test_a_slot_that_was_waited_for_does_not_run_again(
    make_app: MakeApp, post: Post, clock: Clock, dbsession: Session
) -> None:
    app = make_app(tick)

    for seconds in (0, 280, 301, 321):
        beat_at(app, post, clock, NOON + seconds * SECOND)

    assert [run.scheduled_for for run in runs(dbsession)] == [NOON, NOON + 5 * MINUTE]


def test_catching_up_takes_the_slot_that_was_waited_for_and_counts_those_before(
    make_app: MakeApp, post: Post, clock: Clock, dbsession: Session
) -> None:
    app = make_app(tick)
    post(app)
    later = NOON + 15 * MINUTE

    reply = beat_at(app, post, clock, later - 20 * SECOND)

    # The beat does not wait for what is due already.
    assert reply["flows_triggered"] == 2
    assert times(dbsession)[1:] == [
        (NOON + 10 * MINUTE, later - 20 * SECOND, 1),
        (later, later, 0),
    ]


def test_what_is_due_and_what_is_waited_for_is_counted(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    app = make_app((tick, {"start": "next", "every": "1d"}))
    post(app)
    add_flow(dbsession, "due", NOON - 60 * SECOND)
    for name, seconds in {"one": 5, "another": 5, "later": 9}.items():
        add_flow(dbsession, name, NOON + seconds * SECOND)

    reply = post(app, Prefer="return=representation").json

    assert (reply["flows_due"], reply["flows_succeeded"], len(reply["runs"])) == (4, 4, 4)
    starts = [run.started_at for run in runs(dbsession)]
    assert starts == [NOON, *[NOON + 5 * SECOND] * 2, NOON + 9 * SECOND]
    dbsession.rollback()
    row = dbsession.scalars(select(DataFlowBeat).order_by(DataFlowBeat.id.desc())).first()
    assert row
    assert (row.received_at, row.flows_due, row.flows_succeeded) == (NOON, 4, 4)


def test_slots_that_come_one_after_the_other_keep_a_beat_for_30_seconds_at_most(
    make_app: MakeApp, clock: Clock, dbsession: Session
) -> None:
    heartbeat = heartbeat_of(make_app((tick, {"start": "next", "every": "1d"})))
    run_beat(heartbeat, "test", wait=None)
    for seconds in range(5, 600, 5):
        add_flow(dbsession, f"{seconds}", NOON + seconds * SECOND)

    report = run_beat(heartbeat, "test", wait=None)

    assert report.flows_succeeded == 5
    assert clock.now() == NOON + 25 * SECOND


# ---------------------------------------------------------------------------------------------
# Nothing starts before its slot


def test_a_flow_of_each_minute_that_is_beaten_each_second_never_starts_early(
    make_app: MakeApp, post: Post, clock: Clock, dbsession: Session
) -> None:
    clock.time += timedelta(seconds=0.3)
    app = make_app((tick, {"every": None, "cron": "* * * * *"}), (tock, {"every": "1m"}))
    post(app)
    waited = []
    for beat in range(1, 200):
        moment = NOON + timedelta(seconds=beat + 0.3)
        waited.append(beat_at(app, post, clock, max(moment, clock.now()))["duration"])

    for name in ("tick", "tock"):
        mine = select(DataFlowRun).join(DataFlowRun.data_flow).where(DataFlow.name == name)
        pairs = [(run.scheduled_for, run.started_at) for run in dbsession.scalars(mine)]
        lags = [start - slot for slot, start in pairs if slot and start]
        assert len(lags) in {3, 4}
        assert all(timedelta(0) <= lag < SECOND for lag in lags)
    # From the third beat on their rhythm is known.
    assert max(waited[2:]) < 1.1


def test_a_flow_of_each_day_never_runs_on_the_day_before(
    make_app: MakeApp, post: Post, clock: Clock, dbsession: Session
) -> None:
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    clock.time = midnight - 10 * SECOND
    app = make_app((tick, {"every": None, "cron": "0 0 * * *"}))

    for beat in range(20):
        beat_at(app, post, clock, max(midnight + (beat - 9.5) * SECOND, clock.now()))

    assert times(dbsession) == [(midnight, midnight, 0)]


def test_two_early_processes_run_the_slot_once(
    make_app: MakeApp, post: Post, clock: Clock, dbsession: Session
) -> None:
    app, other = make_app(tick), make_app(tick)
    post(app)
    replies: list[Any] = []

    def beat_too() -> None:
        clock.meanwhile = lambda: None
        replies.append(post(other).json)

    clock.meanwhile = beat_too
    replies.append(beat_at(app, post, clock, NOON + 280 * SECOND))

    assert sorted(reply["flows_triggered"] for reply in replies) == [0, 1]
    slot = NOON + 5 * MINUTE
    assert times(dbsession)[1:] == [(slot, slot, 0)]


@pytest.mark.parametrize("columns", [{"enabled": False}, {"next_run_at": NOON + DAY}])
def test_a_flow_that_is_changed_during_the_wait_is_not_run(
    make_app: MakeApp, post: Post, clock: Clock, dbsession: Session, columns: dict[str, Any]
) -> None:
    app = make_app(tick)
    post(app)

    def change() -> None:
        dbsession.execute(update(DataFlow).values(**columns))
        dbsession.commit()

    clock.meanwhile = change
    reply = beat_at(app, post, clock, NOON + 280 * SECOND)

    assert (reply["flows_due"], reply["flows_triggered"]) == (0, 0)
    assert len(runs(dbsession)) == 1


# ---------------------------------------------------------------------------------------------
# When a beat does not wait


@WITHIN_ITS_TIME
@pytest.mark.parametrize("wait", ["wait=1", "wait=19", "wait=20"])
def test_a_slot_after_its_time_is_not_waited_for(
    make_app: MakeApp, post: Post, clock: Clock, wait: str
) -> None:
    app = make_app(tick)
    post(app)

    reply = beat_at(app, post, clock, NOON + 280 * SECOND, Prefer=wait)

    assert (reply["flows_due"], reply["duration"], clock.sleeps) == (0, 0, 0)


@pytest.mark.parametrize(
    "columns",
    [
        {"enabled": False},
        {"handler": "nobody's"},
        {"handler": "tock"},
        {"run_interval": 60},
    ],
    ids=["disabled", "not registered", "held by another flow", "outside its tolerance"],
)
def test_a_flow_that_could_not_run_then_is_not_waited_for(
    make_app: MakeApp, post: Post, clock: Clock, dbsession: Session, columns: dict[str, Any]
) -> None:
    later = {"start": "next", "every": "1d"}
    app = make_app((tick, later), (tock, {**later, "after": ["tick"]}))
    post(app)
    add_flow(dbsession, "soon", NOON + 20 * SECOND, **columns)

    assert post(app).json["duration"] == clock.sleeps == 0


def test_a_flow_that_has_a_run_is_not_waited_for(
    make_app: MakeApp, post: Post, clock: Clock, dbsession: Session
) -> None:
    app = make_app((tick, {"start": "next", "every": "1d"}))
    post(app)
    add_flow(dbsession, "soon", NOON + 20 * SECOND)
    flow = dbsession.scalars(select(DataFlow).where(DataFlow.name == "soon")).one()
    retry = {"trigger": "retry", "not_before": NOON + HOUR}
    dbsession.add(data_flow_run(data_flow=flow, created_at=NOON, updated_at=NOON, **retry))
    dbsession.commit()

    assert post(app).json["duration"] == clock.sleeps == 0


@pytest.mark.parametrize(
    ("gaps", "waits"),
    [
        ([10, 10, 10, 10, 10], False),
        ([10, 10], False),
        ([10], True),  # two beats show no rhythm
        pytest.param([], True, marks=WITHIN_ITS_TIME),
        ([10, 10, 25, 10, 10], True),  # the largest of the last five
        ([25, 10, 10, 10, 10, 10], False),
        ([20, 20, 20], True),  # the next beat may come after the slot
    ],
)
def test_a_beat_that_another_one_follows_in_time_does_not_wait(
    make_app: MakeApp, post: Post, clock: Clock, gaps: list[int], *, waits: bool
) -> None:
    slot = NOON + HOUR
    app = make_app((tick, {"start": "next", "every": "1h"}))
    clock.time = slot - timedelta(seconds=20 + sum(gaps))
    with heartbeat_of(app).session() as session:
        flow = data_flow(name="tick", run_interval=3_600, next_run_at=slot, last_slot_at=NOON)
        flow.created_at, flow.declared_schedule = NOON, "every 1h"
        session.add(flow)

    # The slot comes later than "wait=10".
    post(app, Prefer="wait=10")
    for gap in gaps:
        clock.advance(gap)
        reply = post(app, Prefer="wait=25" if clock.now() == slot - 20 * SECOND else "wait=10")
    if not gaps:
        reply = post(app, Prefer="wait=25")

    assert reply.json["flows_triggered"] == waits
    assert (clock.now() == slot) == waits


def test_a_beat_that_comes_later_than_its_rhythm_waits(
    make_app: MakeApp, post: Post, clock: Clock, dbsession: Session
) -> None:
    def long(_run: Run) -> None:
        clock.advance(15)

    app = make_app((tick, {"start": "next", "every": "1d"}), (long, {"start": "next"}))
    for _ in range(6):
        post(app)
        clock.advance(10)
    add_flow(dbsession, "due", clock.now(), handler="long")
    slot = clock.now() + 20 * SECOND
    add_flow(dbsession, "soon", slot)

    # Another one ought to have come while its run took 15 seconds.
    assert post(app).json["flows_triggered"] == 2
    assert times(dbsession)[-1] == (slot, slot, 0)


# ---------------------------------------------------------------------------------------------
# What it holds while it waits, and how the wait ends


if DATABASE != "sqlite":  # which locks no rows

    def test_a_locked_flow_does_not_keep_a_beat_from_waiting_for_another(
        make_app: MakeApp, post: Post, dbsession: Session
    ) -> None:
        app = make_app((tick, {"start": "next", "every": "1d"}))
        post(app)
        add_flow(dbsession, "held", NOON - SECOND)
        slot = NOON + 20 * SECOND
        add_flow(dbsession, "soon", slot)
        dbsession.scalars(select(DataFlow).where(DataFlow.name == "held").with_for_update()).all()

        reply = post(app).json

        assert (reply["flows_due"], reply["flows_triggered"]) == (2, 1)
        assert times(dbsession) == [(slot, slot, 0)]


def test_nothing_is_held_during_the_wait(
    make_app: MakeApp, post: Post, clock: Clock, dbsession: Session
) -> None:
    app = make_app(tick)
    post(app)
    engine: Engine = heartbeat_of(app).engine
    held: list[int] = []

    def look() -> None:
        held.append(engine.pool.checkedout())  # type: ignore[attr-defined] # of a QueuePool
        begin_writing(dbsession)
        flows = select(DataFlow).with_for_update(nowait=True)
        assert len(dbsession.scalars(flows).all()) == 1
        dbsession.rollback()

    clock.meanwhile = look
    reply = beat_at(app, post, clock, NOON + 290 * SECOND)

    assert reply["flows_triggered"] == 1
    assert set(held) == {0}
    assert len(held) > 50, "it waits in slices"


def test_one_beat_of_a_process_waits_at_a_time(
    make_app: MakeApp, post: Post, clock: Clock, dbsession: Session
) -> None:
    app = make_app(tick)
    post(app)
    replies: list[Any] = []

    def beat_too() -> None:
        clock.meanwhile = lambda: None
        replies.append((clock.sleeps, post(app).json, clock.sleeps))

    clock.meanwhile = beat_too
    last = beat_at(app, post, clock, NOON + 280 * SECOND)

    [(before, reply, after)] = replies
    assert (reply["flows_triggered"], reply["duration"], after) == (0, 0, before)
    assert last["flows_triggered"] == 1
    assert beat_at(app, post, clock, NOON + 580 * SECOND)["flows_triggered"] == 1
    assert len(runs(dbsession)) == 3


def test_a_process_that_stops_ends_the_wait_and_claims_nothing(
    make_app: MakeApp, post: Post, clock: Clock, dbsession: Session
) -> None:
    app = make_app(tick)
    post(app)
    clock.meanwhile = heartbeat_of(app).executor.stop

    reply = beat_at(app, post, clock, NOON + 280 * SECOND)

    assert (reply["flows_triggered"], clock.sleeps) == (0, 1)
    assert len(runs(dbsession)) == 1
    beats = select(DataFlowBeat.flows_triggered).order_by(DataFlowBeat.id)
    assert [*dbsession.scalars(beats)] == [1, 0]


@pytest.mark.parametrize("leap", [pytest.param(-60, marks=WITHIN_ITS_TIME), 60])
def test_a_clock_that_is_set_during_the_wait_ends_it_in_time(
    make_app: MakeApp, post: Post, clock: Clock, dbsession: Session, leap: int
) -> None:
    app = make_app((tick, {"every": "1h"}))
    post(app)

    def set_clock() -> None:
        clock.meanwhile = lambda: None
        clock.leap(leap)

    clock.meanwhile = set_clock
    began = clock.monotonic() + HOUR.total_seconds() - 20
    reply = beat_at(app, post, clock, NOON + HOUR - 20 * SECOND)

    assert reply["flows_triggered"] == (1 if leap > 0 else 0)
    assert clock.monotonic() - began <= 25.1
    assert all(slot and start and slot <= start for slot, start, _ in times(dbsession))


class Held(FakeClock):
    """A clock whose sleep waits for a gate."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    def sleep(self, seconds: float) -> None:
        """Wait, and move ahead."""
        self.gate.hold()
        super().sleep(seconds)


def test_a_beat_that_is_answered_early_waits_in_the_background(
    make_app: MakeApp, post: Post, gate: Gate, dbsession: Session
) -> None:
    app = make_app(tick)
    clock = heartbeat_of(app).clock = Held(gate)
    post(app)
    clock.advance(280)

    reply = post(app, Prefer="respond-async", status=202)

    gate.wait_for_arrival()
    assert reply.headers["Preference-Applied"] == "respond-async"
    assert reply.json["flows_triggered"] == 0
    assert len(runs(dbsession)) == 1
    gate.open()
    settle()
    slot = NOON + 5 * MINUTE
    assert times(dbsession)[1:] == [(slot, slot, 0)]


def test_a_slot_that_comes_while_a_run_goes_on_is_run_at_its_time(
    make_app: MakeApp, post: Post, gate: Gate, dbsession: Session
) -> None:
    came = threading.Event()

    def long(_run: Run) -> None:
        gate.hold()

    def soon(_run: Run) -> None:
        came.set()

    app = make_app((long, {"every": "1d"}), (soon, {"start": "next", "every": "1d"}))
    heartbeat_of(app).clock = clock = MachineClock()
    post(app, status=202, Prefer="wait=0")
    gate.wait_for_arrival()
    gate.open()
    settle()
    moments = {"long": clock.now(), "soon": clock.now() + 2 * SECOND}
    gate.__init__()  # type: ignore[misc] # closed again
    for name, moment in moments.items():
        due = update(DataFlow).where(DataFlow.name == name)
        dbsession.execute(due.values(next_run_at=moment, last_slot_at=moment - DAY))
    dbsession.commit()

    with ThreadPoolExecutor() as pool:
        beat = pool.submit(post, app, Prefer="wait=60")
        gate.wait_for_arrival()
        assert came.wait(30), "the slot passed, and nobody ran it"
        gate.open()
        reply = beat.result(30).json

    assert reply["flows_succeeded"] == 2
    assert all(slot and start and slot <= start for slot, start, _ in times(dbsession))


def test_a_day_of_five_minutes_beaten_early_runs_each_slot(
    make_app: MakeApp, post: Post, clock: Clock, dbsession: Session
) -> None:
    app = make_app(tick, (tock, {"every": None, "cron": "*/5 * * * *"}))
    post(app)
    for beat in range(1, 289):
        beat_at(app, post, clock, NOON + beat * 5 * MINUTE - 5 * SECOND * (beat % 2))

    slots = [run.scheduled_for for run in runs(dbsession)]
    assert len(slots) == 2 * 288 + 1
    assert {run.missed_slots for run in runs(dbsession)} == {0}
    steps = {later - slot for slot, later in pairwise(slots) if slot and later}
    assert steps == {timedelta(0), 5 * MINUTE}
