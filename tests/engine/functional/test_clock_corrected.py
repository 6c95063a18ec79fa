"""The clock was ahead and is corrected, or was set back: all follow it with the next beat.

The clock is eight hours ahead for two beats, unless said otherwise, and noon is right again then.
"""

import os
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, event, select, text, update
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlow, DataFlowBeat, DataFlowRun
from data_flows.heartbeat.run import Window
from data_flows.heartbeat.runs import set_back
from data_flows.heartbeat.runs.claim import claim
from data_flows.heartbeat.runs.lease import renew
from data_flows.heartbeat.runs.register import register
from data_flows.heartbeat.runs.request import ask_for_run, claim_by_hand, lock_flow
from data_flows.heartbeat.runs.set_back import follow_clock, restart_waiting

from ..conftest import FakeClock, MakeApp, heartbeat_of
from ..factories import NOON, data_flow_run
from .operated import SECRET, Call, add_flow, as_operator, count, row_of, runs_of

Post = Callable[..., Any]

SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=s) for s in (1, 60, 3_600, 86_400))
AHEAD = 8 * HOUR
IS_SQLITE = not os.environ.get("TEST_DATABASE_URL")
CRON = {"every": None, "cron": "* * * * *"}
SCHEDULES = pytest.mark.parametrize("schedule", [CRON, {"every": "1m"}], ids=["cron", "every"])


class Flow:
    """A flow that fails while `fails` is set, and otherwise does nothing."""

    __name__ = "flow"

    def __init__(self) -> None:
        self.fails = False
        self.meanwhile: Callable[[], object] = lambda: None

    def __call__(self, _run: Run) -> None:
        """Fail, or not."""
        self.meanwhile()
        if self.fails:
            raise LookupError


@pytest.fixture
def flow() -> Flow:
    return Flow()


def leap(clock: FakeClock, by: timedelta) -> None:
    """Set the clock."""
    clock.leap(by.total_seconds())


def beats(app: TestApp, post: Post, clock: FakeClock, number: int) -> list[int]:
    """Let a minute pass and beat, so many times; return how many runs each beat triggered."""
    triggered = []
    for _ in range(number):
        clock.advance(60)
        triggered.append(post(app).json["flows_triggered"])
    return triggered


def be_ahead(app: TestApp, post: Post, clock: FakeClock, by: timedelta = AHEAD) -> None:
    """Set the clock ahead for two beats, and then right."""
    leap(clock, by)
    beats(app, post, clock, 2)
    leap(clock, -by)


def slots(dbsession: Session, name: str = "flow") -> list[datetime]:
    """Return the slots of the first attempts of a flow."""
    runs = runs_of(dbsession, name)
    return [run.scheduled_for for run in runs if run.scheduled_for and run.attempt == 1]


def columns_of(dbsession: Session) -> Any:
    """Return the rows of all flows."""
    dbsession.rollback()
    return dbsession.execute(select(DataFlow.__table__)).all()


def why(app: TestApp, name: str = "flow") -> str:
    """Ask why a flow does not run."""
    return str(as_operator(app)("GET", f"/flows/{name}", status=200).json["why"])


# ---------------------------------------------------------------------------------------------
# Slots


@SCHEDULES
@pytest.mark.parametrize("offset", [0, 0.3, 31, 59.9])
@pytest.mark.parametrize("before", [0, 3], ids=["made while ahead", "with a history"])
def test_after_it_was_ahead_each_beat_runs_a_slot_of_the_corrected_clock(
    make_app: MakeApp,
    post: Post,
    clock: FakeClock,
    dbsession: Session,
    schedule: dict[str, Any],
    *,
    offset: float,
    before: int,
) -> None:
    clock.advance(offset)
    app = make_app((Flow(), schedule))
    beats(app, post, clock, before)
    be_ahead(app, post, clock)
    ran = len(slots(dbsession))

    assert beats(app, post, clock, 5) == [1] * 5

    after = slots(dbsession)[ran:]
    assert after[-1] <= clock.now() < after[-1] + MINUTE
    assert all(run.status == "success" for run in runs_of(dbsession, "flow"))
    row = row_of(dbsession, "flow")
    assert max(row.created_at, row.updated_at, row.last_slot_at or NOON) <= clock.now()
    assert Counter(slots(dbsession)).most_common(1)[0][1] == 1


def test_a_slot_that_has_come_since_the_last_run_is_not_lost(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app((Flow(), {"every": None, "cron": "0 * * * *"}))
    clock.advance(1_800)
    for by in (AHEAD, -AHEAD):
        for _ in range(2):
            post(app)
            clock.advance(3_600)
        leap(clock, by)
    post(app)

    assert slots(dbsession)[-1] == clock.now() - 30 * MINUTE


def test_cron_passes_over_the_slots_that_have_run_when_their_time_comes(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app((Flow(), CRON), (count, {"every": "1m", "name": "other"}))
    beats(app, post, clock, 3)
    be_ahead(app, post, clock)
    ran = {*slots(dbsession)}
    clock.advance((max(ran) - clock.now() - 4 * MINUTE).total_seconds())

    triggered = beats(app, post, clock, 6)

    # 19:58, 19:59, and after 20:03, 20:04 and 20:05, which have run: 20:06.
    assert Counter(slots(dbsession)).most_common(1)[0][1] == 1
    assert [number - 1 for number in triggered] == [
        int(max(ran) + (minute - 3) * MINUTE not in ran) for minute in range(6)
    ]
    assert {run.status for run in runs_of(dbsession, "flow")} == {"success"}


@pytest.mark.parametrize(
    "options",
    [
        {**CRON, "catch_up": "skip"},
        {**CRON, "between": "11:00-22:00"},
        {"every": "1m", "catch_up": "skip"},
        {"every": "1m", "catch_up": "all"},
        {"every": "1m", "between": "11:00-22:00"},
        {"every": "6h"},
        {"every": None, "cron": "*/2 * * * *", "timezone": "Europe/Berlin"},
    ],
)
def test_flows_of_each_kind_go_by_the_corrected_clock(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session, options: dict[str, Any]
) -> None:
    app = make_app((Flow(), options))
    beats(app, post, clock, 3)
    be_ahead(app, post, clock)
    ran = len(slots(dbsession))

    assert sum(beats(app, post, clock, 2)) > 0

    after = slots(dbsession)[ran:]
    assert after
    assert all(clock.now() - 5 * MINUTE < slot <= clock.now() for slot in after)


def test_slots_that_were_caught_up_with_while_it_was_ahead_do_not_run_again(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app((Flow(), {**CRON, "catch_up": "all"}))
    beats(app, post, clock, 3)
    be_ahead(app, post, clock)
    until = slots(dbsession)[-1]  # ten by each beat, oldest first

    triggered = beats(app, post, clock, 20)

    assert until == NOON + 23 * MINUTE
    assert triggered == [0] * 18 + [1, 1]
    assert slots(dbsession) == [NOON + count * MINUTE for count in range(2, 26)]


def test_a_window_that_is_closed_by_the_corrected_clock_is_waited_for(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app((Flow(), {"every": "1m", "between": "19:00-22:00"}))
    be_ahead(app, post, clock)

    assert beats(app, post, clock, 2) == [0, 0]
    opens = NOON + 7 * HOUR
    assert opens <= row_of(dbsession, "flow").next_run_at < opens + SECOND


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({"every": "10m", "start": "next"}, 11),
        ({"every": None, "cron": "*/10 * * * *"}, 9),
    ],
)
def test_a_flow_that_was_declared_while_it_was_ahead_and_not_yet_due_starts_in_time(
    make_app: MakeApp, post: Post, clock: FakeClock, options: dict[str, Any], first: int
) -> None:
    clock.leap(60)
    app = make_app((Flow(), options))
    leap(clock, AHEAD)
    post(app)
    leap(clock, -AHEAD)

    triggered = beats(app, post, clock, 12)

    assert triggered.index(1) + 1 == first


def test_a_schedule_that_an_operator_changed_while_it_was_ahead_follows_too(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app((Flow(), {"every": "1d"}), **SECRET)
    call = as_operator(app)
    post(app)
    clock.advance(3_600)
    leap(clock, AHEAD)
    call("PATCH", "/flows/flow", {"every": "2h"}, status=200)
    beats(app, post, clock, 1)
    call("PATCH", "/flows/flow", {"every": None, "cron": "*/5 * * * *"}, status=200)
    beats(app, post, clock, 1)
    leap(clock, -AHEAD)

    beats(app, post, clock, 3)
    assert slots(dbsession)[-1] == NOON + HOUR + 5 * MINUTE


def test_a_disabled_flow_stays_disabled_and_follows_the_clock_when_it_is_enabled(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app((Flow(), CRON), (count, {"every": "1m"}), **SECRET)
    call = as_operator(app)
    beats(app, post, clock, 1)
    leap(clock, AHEAD)
    beats(app, post, clock, 2)
    for name in ("flow", "count"):
        call("PATCH", f"/flows/{name}", {"enabled": False}, status=200)
    leap(clock, -AHEAD)

    assert beats(app, post, clock, 2) == [0, 0]
    for name in ("flow", "count"):
        assert not row_of(dbsession, name).enabled
        call("PATCH", f"/flows/{name}", {"enabled": True}, status=200)

    beats(app, post, clock, 1)
    for name in ("flow", "count"):
        assert clock.now() - slots(dbsession, name)[-1] < MINUTE


def test_a_row_that_was_broken_by_hand_is_disabled_and_the_others_follow(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app((Flow(), CRON), (count, CRON))
    beats(app, post, clock, 1)
    be_ahead(app, post, clock)
    broken = update(DataFlow).where(DataFlow.name == "flow").values(cron="61 * * * *")
    dbsession.execute(broken)
    dbsession.commit()

    assert beats(app, post, clock, 2) == [1, 1]
    assert "61 * * * *" in str(row_of(dbsession, "flow").disabled_reason)


@pytest.mark.parametrize("back", [AHEAD, HOUR, 29 * MINUTE])
def test_after_the_clock_was_set_back_cron_repeats_no_slot_and_why_explains_it(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session, back: timedelta
) -> None:
    app = make_app((Flow(), {**CRON, "cron": "*/10 * * * *"}), **SECRET)
    for _ in range(60):
        clock.advance(600)
        post(app)
    until = slots(dbsession)[-1]

    leap(clock, -back)
    before = why(app)
    assert beats(app, post, clock, 1) == [0]

    assert before.startswith("The clock was set back: the last beat came at 2026-03-01 22:00:00 UT")
    following = f"{until + 10 * MINUTE:%Y-%m-%d %H:%M:%S} UTC"
    assert why(app) == (
        f"Not due until {following}: the clock was set back, and its slots up to "
        f"{until:%Y-%m-%d %H:%M:%S} UTC have run before."
    )
    clock.advance((until + 10 * MINUTE - clock.now()).total_seconds())
    assert post(app).json["flows_triggered"] == 1
    assert Counter(slots(dbsession)).most_common(1)[0][1] == 1


@SCHEDULES
def test_flows_follow_although_no_beat_is_known(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session, schedule: dict[str, Any]
) -> None:
    app = make_app((Flow(), schedule))
    beats(app, post, clock, 1)
    be_ahead(app, post, clock)
    dbsession.execute(delete(DataFlowBeat))
    dbsession.commit()

    assert beats(app, post, clock, 2) == [1, 1]


def test_a_run_of_a_process_that_died_follows_although_no_beat_is_known(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app((count, {"every": "1d", "start": "next"}))
    post(app)
    heartbeat = heartbeat_of(app)
    leap(clock, AHEAD)
    with heartbeat.session() as session:
        claim_by_hand(session, heartbeat, "count")
    leap(clock, -AHEAD)
    dbsession.execute(delete(DataFlowBeat))
    dbsession.commit()

    post(app)
    clock.advance(299)
    assert post(app).json["runs_reaped"] == 0
    clock.advance(1)
    assert post(app).json["runs_reaped"] == 1


def test_a_flow_that_was_touched_while_it_was_ahead_comes_no_later(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app((count, {"every": "10m", "start": "next"}), **SECRET)
    post(app)
    clock.advance(300)
    leap(clock, AHEAD)
    disabled = {"configuration": {"a": 1}, "enabled": False}
    as_operator(app)("PATCH", "/flows/count", disabled, status=200)
    post(app)
    leap(clock, -AHEAD)
    dbsession.execute(text("UPDATE data_flows SET enabled = (1 = 1)"))
    dbsession.commit()

    assert sum(beats(app, post, clock, 5)) == 1


def test_many_flows_follow_a_few_at_a_time(
    make_app: MakeApp,
    post: Post,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(set_back, "BATCH", 2)
    app = make_app(*((count, {**CRON, "name": f"{number}"}) for number in range(9)))
    beats(app, post, clock, 2)
    be_ahead(app, post, clock)

    assert beats(app, post, clock, 2) == [9, 9]


def test_a_history_that_was_removed_keeps_cron_from_nothing(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app((Flow(), CRON))
    beats(app, post, clock, 3)
    be_ahead(app, post, clock)
    dbsession.execute(delete(DataFlowRun))
    dbsession.commit()

    assert beats(app, post, clock, 3) == [1, 1, 1]


# ---------------------------------------------------------------------------------------------
# Runs that wait, and runs of processes that died


@SCHEDULES
def test_a_retry_waits_for_its_delay_by_the_corrected_clock(
    make_app: MakeApp,
    post: Post,
    clock: FakeClock,
    dbsession: Session,
    flow: Flow,
    *,
    schedule: dict[str, Any],
) -> None:
    app = make_app((flow, {**schedule, "retries": 1, "retry_delay": "3m"}), **SECRET)
    beats(app, post, clock, 3)
    flow.fails = True
    be_ahead(app, post, clock)
    flow.fails = False
    [retry] = dbsession.scalars(DataFlowRun.pending()).all()

    before = why(app)
    assert beats(app, post, clock, 1) == [0]
    after = why(app)
    assert beats(app, post, clock, 2) == [0, 0]
    beats(app, post, clock, 1)

    assert before.startswith("The clock was set back: the last beat came at 2026-03-01 20:0")
    not_before = clock.now().strftime("%Y-%m-%d %H:%M:%S UTC")
    assert after == f"Retry 1 of 1 waits until {not_before}."
    dbsession.refresh(retry)
    assert retry.status == "success"
    assert retry.started_at
    assert clock.now() - retry.started_at < SECOND
    assert beats(app, post, clock, 3) == [1, 1, 1]
    assert Counter(slots(dbsession)).most_common(1)[0][1] == 1


@SCHEDULES
def test_a_retry_that_waits_while_the_clock_is_set_back_keeps_its_delay(
    make_app: MakeApp,
    post: Post,
    clock: FakeClock,
    flow: Flow,
    *,
    schedule: dict[str, Any],
) -> None:
    app = make_app((flow, {**schedule, "retries": 1, "retry_delay": "3m"}))
    flow.fails = True
    beats(app, post, clock, 2)
    flow.fails = False
    leap(clock, -AHEAD)

    triggered = beats(app, post, clock, 4)

    assert triggered[:3] == [0, 0, 0]
    assert triggered[3] > 0


@SCHEDULES
def test_a_run_of_a_process_that_died_is_reaped_when_its_lease_has_passed_since(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session, schedule: dict[str, Any]
) -> None:
    app = make_app((Flow(), {**schedule, "on_lost": "retry"}), **SECRET)
    heartbeat = heartbeat_of(app)
    beats(app, post, clock, 2)
    leap(clock, AHEAD)
    clock.advance(60)
    [dead] = heartbeat.transact(lambda session: claim(session, heartbeat, 1))
    beats(app, post, clock, 1)
    leap(clock, -AHEAD)

    beats(app, post, clock, 1)
    text = why(app)
    reaped = []
    for _ in range(6):
        clock.advance(60)
        reaped.append(post(app).json["runs_reaped"])

    assert text == (
        f"Run {dead.id} has been running since 2026-03-01 20:03:00 UTC by a clock that was ahead "
        "then."
    )
    assert reaped == [0, 0, 0, 0, 1, 0]
    lost = dbsession.get_one(DataFlowRun, dead.id)
    assert (lost.status, lost.error_type) == ("failed", "LeaseExpired")
    assert runs_of(dbsession, "flow")[-1].status == "success"


def test_a_living_run_on_a_machine_whose_clock_is_ahead_is_never_reaped(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app, other = make_app(Flow(), **{"heartbeat.lease": "1m"}), make_app(Flow())
    far = heartbeat_of(other)
    far.clock = FakeClock(NOON + AHEAD)
    register(far)
    [run] = far.transact(lambda session: claim(session, far, 1))

    reaped = 0
    for _ in range(30):
        for _ in range(2):  # its lease is five minutes, whatever the lease here is
            clock.advance(50)
            far.clock.sleep(50)
            reaped += post(app).json["runs_reaped"]
        renew(far, [run])

    assert reaped == 0
    assert dbsession.get_one(DataFlowRun, run.id).status == "in_progress"


def test_manual_runs_and_backfills_that_wait_are_run_at_once(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app((Flow(), {"every": "1d", "start": "next"}), (count, {"every": "1d"}))
    heartbeat = heartbeat_of(app)
    post(app)
    leap(clock, AHEAD)
    beats(app, post, clock, 1)
    window = Window(NOON - DAY, NOON)
    for name, span in {"flow": None, "count": window}.items():
        with heartbeat.session() as session:
            ask_for_run(session, heartbeat, lock_flow(session, heartbeat, name), span)
    leap(clock, -AHEAD)

    post(app)

    [manual] = runs_of(dbsession, "flow")
    backfill = runs_of(dbsession, "count")[1]
    assert (manual.trigger, manual.status) == ("manual", "success")
    assert (backfill.trigger, backfill.status) == ("backfill", "success")
    assert (backfill.window_start, backfill.window_end) == (window.start, window.end)


# ---------------------------------------------------------------------------------------------
# Conditions


@pytest.fixture
def chain(make_app: MakeApp, flow: Flow) -> TestApp:
    """Make an application in which `flow` waits for successes of `count`."""
    later = {"every": "1m", "start": "next"}
    return make_app((count, later), (flow, {"every": "1m", "after": ["count"]}), **SECRET)


def pause(call: Call, name: str, *, enabled: bool = False) -> None:
    """Disable a flow, or enable it."""
    call("PATCH", f"/flows/{name}", {"enabled": enabled}, status=200)


def test_a_flow_that_waits_for_another_is_not_held_by_a_time_that_lay_ahead(
    chain: TestApp, post: Post, clock: FakeClock
) -> None:
    beats(chain, post, clock, 2)
    be_ahead(chain, post, clock)

    assert beats(chain, post, clock, 3) == [2, 2, 2]


def test_a_flow_that_waits_for_another_does_not_run_for_a_success_that_it_has_seen(
    chain: TestApp, post: Post, clock: FakeClock
) -> None:
    call = as_operator(chain)
    beats(chain, post, clock, 2)
    leap(clock, AHEAD)
    beats(chain, post, clock, 2)
    pause(call, "count")
    leap(clock, -AHEAD)

    assert beats(chain, post, clock, 3) == [0, 0, 0]
    assert why(chain).endswith("but it waits for a success of count.")
    pause(call, "count", enabled=True)
    assert beats(chain, post, clock, 2)[-1] == 2


def test_a_success_that_a_flow_has_not_seen_is_new_after_the_correction(
    chain: TestApp, post: Post, clock: FakeClock
) -> None:
    call = as_operator(chain)
    beats(chain, post, clock, 2)
    leap(clock, AHEAD)
    beats(chain, post, clock, 1)
    pause(call, "flow")
    beats(chain, post, clock, 1)
    pause(call, "count")
    leap(clock, -AHEAD)
    pause(call, "flow", enabled=True)

    assert beats(chain, post, clock, 3) == [1, 0, 0]


def test_a_run_during_which_the_clock_is_corrected_counts_from_the_corrected_clock(
    chain: TestApp, post: Post, clock: FakeClock, dbsession: Session, flow: Flow
) -> None:
    beats(chain, post, clock, 2)
    leap(clock, AHEAD)
    beats(chain, post, clock, 1)

    def correct() -> None:
        flow.meanwhile = lambda: None
        leap(clock, -AHEAD)

    flow.meanwhile = correct
    assert beats(chain, post, clock, 1) == [2]

    row, run = row_of(dbsession, "flow"), runs_of(dbsession, "flow")[-1]
    times = [row.last_run_at, row.last_success_at, row.last_success_started_at]
    assert times == [clock.now()] * 3
    assert run.started_at == run.ended_at == clock.now() + AHEAD
    assert beats(chain, post, clock, 3) == [2, 2, 2]


# ---------------------------------------------------------------------------------------------
# Several processes, and what it costs


@SCHEDULES
def test_two_processes_follow_the_clock_and_run_each_slot_once(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session, schedule: dict[str, Any]
) -> None:
    app, other = make_app((Flow(), schedule)), make_app((Flow(), schedule))
    beats(app, post, clock, 2)
    be_ahead(other, post, clock)

    triggered = []
    for _ in range(4):
        clock.advance(60)
        triggered.append([post(each).json["flows_triggered"] for each in (other, app)])
        app, other = other, app

    assert triggered == [[1, 0]] * 4
    assert Counter(slots(dbsession)).most_common(1)[0][1] == 1


@pytest.mark.parametrize("others", [True, False], ids=["others beat", "nobody beats"])
def test_a_process_that_stood_still_restarts_no_grid_that_others_went_on_with(
    make_app: MakeApp,
    post: Post,
    clock: FakeClock,
    dbsession: Session,
    monkeypatch: pytest.MonkeyPatch,
    *,
    others: bool,
) -> None:
    app, other = make_app((Flow(), {"every": "1h"})), make_app((Flow(), {"every": "1h"}))
    beats(app, post, clock, 1)
    heartbeat = heartbeat_of(app)
    transact = heartbeat.transact
    left: list[Any] = []

    def stand_still(work: Callable[[Session], Any]) -> Any:
        """Be away between the look and the lock, while the clock and perhaps others go on."""
        if len(left) == 1:
            clock.time = NOON + HOUR + MINUTE
            if others:
                post(other)
        left.append(columns_of(dbsession))
        return transact(work)

    monkeypatch.setattr(heartbeat, "transact", stand_still)
    leap(clock, -AHEAD)
    follow_clock(heartbeat)

    assert len(left) == 2
    assert columns_of(dbsession) == left[-1]


class StandingStill(FakeClock):
    """A clock that shows another time each time, as to a process that stands still in between."""

    def __init__(self, *times: datetime) -> None:
        super().__init__()
        self.times = [*times]

    def now(self) -> datetime:
        """Return the next time."""
        return self.times.pop(0)


def test_a_process_that_stood_still_changes_no_run_that_others_went_on_with(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session, flow: Flow
) -> None:
    waiting = {"retries": 1, "retry_delay": "1h"}
    app = make_app((flow, waiting), (count, {"name": "long"}), **SECRET)
    flow.fails = True
    post(app)
    heartbeat = heartbeat_of(app)
    clock.advance(300)
    heartbeat.transact(lambda session: claim(session, heartbeat, 1))
    runs = select(DataFlowRun.__table__)
    before = dbsession.execute(runs).all()
    dbsession.rollback()

    heartbeat.clock = StandingStill(NOON - AHEAD, clock.now())
    heartbeat.transact(lambda session: restart_waiting(session, heartbeat))

    assert {row.status for row in before} == {"failed", "success", "pending", "in_progress"}
    assert dbsession.execute(runs).all() == before


if not IS_SQLITE:  # which locks no rows

    def test_a_locked_flow_is_left_to_a_later_beat(
        make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
    ) -> None:
        app = make_app((Flow(), CRON), (count, CRON))
        beats(app, post, clock, 1)
        be_ahead(app, post, clock)
        clock.advance(60)
        held = select(DataFlow).where(DataFlow.name == "flow").with_for_update()
        dbsession.scalars(held).one()

        assert post(app).json["flows_triggered"] == 1
        dbsession.rollback()
        clock.advance(60)
        assert post(app).json["flows_triggered"] == 2


def test_a_clock_that_was_followed_is_not_looked_after_again(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app((Flow(), {"every": "1h"}), (count, {"every": None, "cron": "0 * * * *"}))
    post(app)
    be_ahead(app, post, clock, 3 * DAY)
    beats(app, post, clock, 1)
    texts: list[str] = []

    def note(_connection: object, _cursor: object, text: str, *_ignored: object) -> None:
        texts.append(text)

    event.listen(heartbeat_of(app).engine, "before_cursor_execute", note)
    assert beats(app, post, clock, 1) == [0]
    event.remove(heartbeat_of(app).engine, "before_cursor_execute", note)

    assert len(texts) == 2, "a glance at what there is to do, and the beat's row"


def test_a_flow_whose_code_is_missing_costs_no_beat_anything(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app, without = make_app((Flow(), CRON), (count, CRON)), make_app((count, CRON))
    beats(app, post, clock, 2)
    be_ahead(app, post, clock)
    post(without)
    statements: list[str] = []

    def note(_connection: object, _cursor: object, text: str, *_ignored: object) -> None:
        statements.append(text)

    event.listen(heartbeat_of(without).engine, "before_cursor_execute", note)
    post(without)

    assert len(statements) == 3, "a glance, what there is to do, and the beat's row"
    assert row_of(dbsession, "flow").next_run_at > NOON + AHEAD
    assert beats(app, post, clock, 1) == [2]


def test_a_lease_that_was_written_by_hand_stays(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    app = make_app((count, {"every": "1d", "start": "next"}))
    post(app)
    until = {"lease_expires_at": NOON + HOUR, "updated_at": NOON + AHEAD}
    flow = row_of(dbsession, "count")
    dbsession.add(data_flow_run(data_flow=flow, status="in_progress", **until))
    dbsession.commit()

    assert post(app).json["runs_reaped"] == 0
    assert runs_of(dbsession, "count")[0].lease_expires_at == NOON + HOUR


def test_cron_that_goes_by_a_right_clock_is_due_at_its_next_time(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app((Flow(), CRON), **SECRET)
    beats(app, post, clock, 2)

    assert why(app) == "Not due until 2026-03-01 12:03:00 UTC."


def test_a_scheduler_that_calls_no_more_is_named_although_it_has_called_ahead(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app((Flow(), {"every": "1h"}), **SECRET)
    post(app)
    be_ahead(app, post, clock)
    beats(app, post, clock, 1)

    clock.advance(15 * 60)

    assert why(app).startswith("No beat has come for 15 minutes")


def test_a_flow_without_a_next_time_is_due_although_it_was_made_ahead(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app((count, {"every": "1d", "start": "next"}), **SECRET)
    call = as_operator(app)
    post(app)
    leap(clock, AHEAD)
    add_flow(call, "new", every=None, cron="*/5 * * * *")
    epoch = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    dbsession.execute(update(DataFlow).where(DataFlow.name == "new").values(next_run_at=epoch))
    dbsession.commit()
    leap(clock, -AHEAD)

    shown = call("GET", "/flows/new", status=200).json["next_slots"]

    assert shown[0] == "2026-03-01T12:00:00+00:00"
    assert beats(app, post, clock, 5)[-1] == 1
