"""The history that is kept, and the removal of the rest, for which no other process waits."""

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Heartbeat, Run
from data_flows.heartbeat.clock import Clock
from data_flows.heartbeat.db import begin_writing
from data_flows.heartbeat.models import DataFlow, DataFlowBeat, DataFlowRun
from data_flows.heartbeat.optional import pruning
from data_flows.heartbeat.run import ClaimedRun
from data_flows.heartbeat.runs.execute import execute
from data_flows.heartbeat.runs.register import register
from data_flows.heartbeat.runs.request import claim_by_hand

from ..conftest import FakeClock, MakeApp, heartbeat_of
from ..factories import NOON, data_flow, data_flow_beat, data_flow_run
from .conftest import Command

Post = Callable[..., Any]

DATABASE = make_url(os.environ.get("TEST_DATABASE_URL") or "sqlite://").get_backend_name()
DAY = timedelta(days=1)
MOMENT = timedelta(microseconds=1)
SEEDS = 10


def tick(_run: Run) -> None:
    """Do nothing, every five minutes."""


def ended(flow: DataFlow, status: str, age: timedelta, **columns: Any) -> DataFlowRun:
    """Build a run of `flow` that ended so long before NOON."""
    end = NOON - age
    return data_flow_run(
        data_flow=flow, status=status, created_at=end, started_at=end, ended_at=end, **columns
    )


def idle_flow(name: str = "idle") -> DataFlow:
    """Build a flow that is not due in any of these tests."""
    return data_flow(name=name, enabled=False)


def run_by_hand(app: TestApp) -> ClaimedRun:
    """Run the flow `tick` now."""
    heartbeat = heartbeat_of(app)
    register(heartbeat)
    with heartbeat.session() as session:
        claimed = claim_by_hand(session, heartbeat, "tick")
    execute(heartbeat, claimed)
    return claimed


class History:
    """The rows of the past; these tests name a run by its `worker`."""

    def __init__(self, dbsession: Session) -> None:
        self.session = dbsession

    def add(self, *rows: Any) -> None:
        """Store rows."""
        self.session.add_all(rows)
        self.session.commit()

    def another_session(self) -> Session:
        """Open a session as another process would."""
        return Session(self.session.get_bind())

    def all(self, statement: Any) -> list[Any]:
        """Read in a transaction of its own."""
        self.session.rollback()
        found = [*self.session.scalars(statement)]
        self.session.rollback()
        return found

    def count(self, column: Any) -> int:
        """Count the rows of a table."""
        return len(self.all(select(column)))

    def runs(self) -> list[str]:
        """Return the names of the runs that are left."""
        return sorted(name or "" for name in self.all(select(DataFlowRun.worker)))


@pytest.fixture
def history(dbsession: Session) -> History:
    """Make the past."""
    return History(dbsession)


def keep(days: int = 30, runs: int = 1) -> dict[str, str]:
    """Return the settings that say what to keep."""
    return {"heartbeat.keep_days": str(days), "heartbeat.keep_runs": str(runs)}


# ---------------------------------------------------------------------------------------------
# What goes, and what stays


@pytest.mark.parametrize("days", [1, 30])
def test_a_run_goes_when_it_is_older_than_the_days_to_keep(
    make_app: MakeApp, post: Post, history: History, days: int
) -> None:
    flow = idle_flow()
    limit = days * DAY
    history.add(
        ended(flow, "success", limit + MOMENT, worker="older"),
        ended(flow, "success", limit, worker="just as old"),
        ended(flow, "success", limit - MOMENT, worker="younger"),
        ended(flow, "success", timedelta(0), worker="last"),
    )

    post(make_app(**keep(days)))

    assert history.runs() == ["just as old", "last", "younger"]


def test_a_beat_goes_when_it_is_older_than_the_days_to_keep(
    make_app: MakeApp, post: Post, history: History
) -> None:
    ages = [30 * DAY + MOMENT, 30 * DAY, 29 * DAY]
    history.add(*(data_flow_beat(received_at=NOON - age) for age in ages))

    post(make_app(**keep()))

    kept = history.all(select(DataFlowBeat.received_at).order_by(DataFlowBeat.id))
    assert [NOON - received_at for received_at in kept] == [30 * DAY, 29 * DAY, timedelta(0)]


def test_the_last_successes_and_failures_of_each_flow_stay(
    make_app: MakeApp, post: Post, history: History
) -> None:
    often, seldom, once = idle_flow("often"), idle_flow("seldom"), idle_flow("once")
    for number in range(7):
        status = "failed" if number < 3 else "success"
        history.add(ended(often, status, (90 - number) * DAY, worker=f"often {status} {number}"))
        history.add(ended(seldom, "success", (800 - number) * DAY, worker=f"seldom {number}"))
    history.add(ended(once, "failed", 999 * DAY, worker="once"))

    post(make_app(**keep(runs=2)))

    assert history.runs() == [
        "often failed 1",
        "often failed 2",
        "often success 5",
        "often success 6",
        "once",
        "seldom 5",
        "seldom 6",
    ]


def test_what_stays_is_what_ended_last_however_the_rows_were_numbered(
    make_app: MakeApp, post: Post, history: History
) -> None:
    flow = idle_flow()
    for age in (40, 50, 60, 70):
        history.add(ended(flow, "success", age * DAY, worker=f"{age} days ago"))

    post(make_app(**keep(runs=2)))

    assert history.runs() == ["40 days ago", "50 days ago"]


def test_of_runs_that_ended_in_one_moment_no_more_stay_than_of_others(
    make_app: MakeApp, post: Post, history: History
) -> None:
    flow = idle_flow()
    for number in range(5):
        history.add(ended(flow, "success", 40 * DAY, worker=f"run {number}"))

    post(make_app(**keep(runs=2)))

    assert history.runs() == ["run 3", "run 4"]


def test_a_run_without_an_end_is_left_alone_and_keeps_no_other(
    make_app: MakeApp, post: Post, history: History
) -> None:
    flow = idle_flow()
    history.add(
        data_flow_run(data_flow=flow, status="success", worker="made by hand"),
        ended(flow, "success", 41 * DAY, worker="first"),
        ended(flow, "success", 40 * DAY, worker="last"),
    )

    post(make_app(**keep()))

    assert history.runs() == ["last", "made by hand"]


@pytest.mark.parametrize("trigger", ["schedule", "manual", "retry", "backfill"])
def test_it_does_not_matter_why_a_run_was_made(
    make_app: MakeApp,
    post: Post,
    history: History,
    trigger: str,
) -> None:
    flow = idle_flow()
    history.add(
        ended(flow, "success", 41 * DAY, worker="first", trigger=trigger),
        ended(flow, "success", 40 * DAY, worker="last", trigger=trigger),
    )

    post(make_app(**keep()))

    assert history.runs() == ["last"]


def test_a_run_that_has_not_ended_stays_however_old_it_is(
    make_app: MakeApp, post: Post, history: History
) -> None:
    waiting, running = idle_flow("waiting"), idle_flow("running")
    waiting.handler = running.handler = "tick"
    long_ago = NOON - 999 * DAY
    not_yet = {"lease_expires_at": NOON + DAY, "started_at": long_ago, "created_at": long_ago}
    history.add(
        data_flow_run(data_flow=waiting, worker="pending", created_at=long_ago, trigger="schedule"),
        data_flow_run(data_flow=running, status="in_progress", worker="in_progress", **not_yet),
    )

    post(make_app((tick, {"start": "next"}), **keep()))

    assert history.runs() == ["in_progress", "pending"]


def test_the_last_run_stays_also_where_the_clock_was_ahead_before_it(
    make_app: MakeApp, post: Post, clock: FakeClock, history: History
) -> None:
    app = make_app(tick, **keep(days=1))
    ahead = (100 * DAY).total_seconds()
    clock.leap(ahead)
    run_by_hand(app)
    run_by_hand(app)
    clock.leap(-ahead)
    last = run_by_hand(app)

    history.session.execute(update(DataFlow).values(enabled=False))
    history.session.commit()
    clock.leap(ahead / 2)
    post(app)

    (flow,) = history.all(select(DataFlow))
    assert flow.last_run.id == last.id
    assert history.count(DataFlowRun.id) == 3


# ---------------------------------------------------------------------------------------------
# What the next runs need


def test_windows_have_no_gap_after_the_last_success_was_removed(
    make_app: MakeApp, post: Post, clock: FakeClock, history: History
) -> None:
    seen: list[tuple[Any, Any]] = []

    def watch(run: Run) -> None:
        seen.append((run.window.start, run.window.end))

    app = make_app((watch, {"every": "90d"}), **keep())
    post(app)
    (scheduled,) = history.all(select(DataFlowRun))
    later = clock.now() + DAY
    history.add(
        data_flow_run(
            data_flow_id=scheduled.data_flow_id,
            status="success",
            trigger="backfill",
            worker="backfill",
            created_at=later,
            started_at=later,
            ended_at=later,
        )
    )
    history.session.execute(update(DataFlow).values(last_run_at=later))
    history.session.commit()

    clock.advance(80 * DAY.total_seconds())
    post(app)
    assert history.runs() == ["backfill"]
    clock.advance(10 * DAY.total_seconds())
    post(app)

    assert seen == [(NOON - 90 * DAY, NOON), (NOON, NOON + 90 * DAY)]


def test_a_slot_younger_than_the_days_to_keep_is_still_refused_a_second_run(
    make_app: MakeApp, post: Post, history: History
) -> None:
    flow = idle_flow()
    slot = NOON - 30 * DAY
    history.add(
        ended(flow, "success", 30 * DAY, scheduled_for=slot),
        ended(flow, "success", DAY, scheduled_for=NOON - DAY),
    )

    post(make_app(**keep()))

    with pytest.raises(IntegrityError):
        history.add(data_flow_run(data_flow=flow, status="success", scheduled_for=slot))


# ---------------------------------------------------------------------------------------------
# Runs that wait for a handler


def waiting(flow: DataFlow, age: timedelta) -> DataFlowRun:
    """Build a run of `flow` that was asked for so long before NOON."""
    return data_flow_run(data_flow=flow, worker=flow.name, created_at=NOON - age)


def test_a_pending_run_whose_handler_is_not_registered_is_ended_after_the_days_to_keep(
    make_app: MakeApp, post: Post, history: History
) -> None:
    history.add(
        waiting(idle_flow("gone"), 30 * DAY + MOMENT),
        waiting(idle_flow("not yet"), 30 * DAY),
        waiting(data_flow(name="known", handler="tick", enabled=False), 99 * DAY),
    )
    # A configuration that cannot be read belongs to its own flow's runs alone.
    broken = text("UPDATE data_flows SET configuration = '7' WHERE name = 'gone'")
    history.session.execute(broken)
    history.session.commit()

    reply = post(make_app((tick, {"start": "next"}), **keep())).json

    # A run that was asked for by hand goes ahead on a disabled flow too.
    assert reply["flows_triggered"] == 1
    runs = {run.worker: run for run in history.all(select(DataFlowRun))}
    assert runs["not yet"].status == "pending"
    gone = runs["gone"]
    assert (gone.status, gone.error_type, gone.ended_at) == ("failed", "Cancelled", NOON)
    assert "'gone'" in (gone.error_message or "")
    assert (gone.data_flow.last_run_at, gone.data_flow.last_run_status) == (NOON, "failed")


# ---------------------------------------------------------------------------------------------
# In small steps


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a step look at two flows and remove ten rows of a table."""
    monkeypatch.setattr(pruning, "FLOWS", 2)
    monkeypatch.setattr(pruning, "ROWS", 10)


@pytest.mark.usefixtures("small_steps")
def test_each_beat_removes_a_batch_until_nothing_is_left_to_go(
    make_app: MakeApp, post: Post, history: History
) -> None:
    flow = idle_flow()
    history.add(*(ended(flow, "success", (40 + number) * DAY) for number in range(36)))
    history.add(*(data_flow_beat(received_at=NOON - 31 * DAY) for _ in range(25)))
    app = make_app(**keep())
    runs, beats = [], []

    for number in range(1, 6):
        post(app)
        runs.append(history.count(DataFlowRun.id))
        beats.append(history.count(DataFlowBeat.id) - number)

    assert runs == [26, 16, 6, 1, 1]
    assert beats == [15, 5, 0, 0, 0]


@pytest.mark.usefixtures("small_steps")
def test_flows_that_have_only_what_is_kept_do_not_keep_others_from_their_turn(
    make_app: MakeApp, post: Post, history: History
) -> None:
    for number in range(5):
        flow = idle_flow(f"kept {number}")
        history.add(*(ended(flow, "success", 99 * DAY, worker="kept") for _ in range(12)))
    flow = idle_flow("last")
    history.add(*(ended(flow, "success", 40 * DAY, worker="last") for _ in range(13)))
    app = make_app(**keep(runs=12))
    beats = [post(app) and history.runs().count("last") for _ in range(4)]

    assert beats == [13, 13, 12, 12]
    assert history.runs().count("kept") == 60


@pytest.mark.usefixtures("small_steps")
def test_when_all_flows_were_looked_at_beats_rest_from_it_for_some_minutes(
    make_app: MakeApp, post: Post, clock: FakeClock, history: History
) -> None:
    flow = idle_flow()
    app = make_app(**keep())
    post(app)
    history.add(*(ended(flow, "failed", 40 * DAY) for _ in range(2)))

    clock.advance(pruning.PAUSE - 1)
    post(app)
    before = history.count(DataFlowRun.id)
    clock.advance(1)
    post(app)

    assert (before, history.count(DataFlowRun.id)) == (2, 1)


# ---------------------------------------------------------------------------------------------
# Nobody waits


if DATABASE == "sqlite":

    def test_a_beat_does_not_wait_for_the_write_lock_to_prune(
        make_app: MakeApp, post: Post, history: History
    ) -> None:
        flow = idle_flow()
        history.add(ended(flow, "success", 41 * DAY), ended(flow, "success", 40 * DAY))
        app = make_app(tick, **keep())
        heartbeat = heartbeat_of(app)
        writer = history.another_session()

        def take_the_lock(_heartbeat: Heartbeat) -> None:
            begin_writing(writer)

        # When the beat has written its own rows.
        heartbeat.chores.insert(0, take_the_lock)

        reply = post(app).json
        held = history.count(DataFlowRun.id)
        patience = busy_timeouts(heartbeat)
        writer.close()
        del heartbeat.chores[0]
        post(app)

        assert reply["flows_succeeded"] == 1
        assert held == 3
        # It came again at the next beat; and the connections wait as ever.
        assert history.count(DataFlowRun.id) == 2
        assert patience == {86_400_000}

    def busy_timeouts(heartbeat: Heartbeat) -> set[int]:
        """Return how long each pooled connection waits for the lock, in milliseconds."""
        with ExitStack() as stack:
            connections = [stack.enter_context(heartbeat.engine.connect()) for _ in range(5)]
            return {
                connection.execute(text("PRAGMA busy_timeout")).scalar_one()
                for connection in connections
            }

else:

    @pytest.mark.parametrize("table", [DataFlowRun, DataFlowBeat, DataFlow])
    def test_a_beat_passes_over_locked_rows_and_removes_the_rest(
        make_app: MakeApp,
        post: Post,
        clock: FakeClock,
        history: History,
        table: Any,
    ) -> None:
        flow = idle_flow()
        history.add(*(ended(flow, "success", age * DAY) for age in (43, 42, 41, 40)))
        history.add(*(data_flow_beat(received_at=NOON - 31 * DAY) for _ in range(2)))
        history.add(waiting(idle_flow("gone"), 40 * DAY))
        app = make_app(**keep())

        def left() -> tuple[int, int, int]:
            ended_runs = history.all(select(DataFlowRun.id).filter_by(status="success"))
            pending_runs = history.all(select(DataFlowRun.id).filter_by(status="pending"))
            old_beats = history.all(select(DataFlowBeat.id).filter_by(received_at=NOON - 31 * DAY))
            return len(ended_runs), len(pending_runs), len(old_beats)

        with history.another_session() as holder:
            holder.execute(select(table.id).order_by(table.id).limit(1).with_for_update())
            if table is DataFlow:
                holder.execute(select(table.id).with_for_update())
            post(app)
            held = left()
        clock.advance(pruning.PAUSE)
        post(app)

        assert held == {DataFlowRun: (2, 0, 0), DataFlowBeat: (1, 0, 1), DataFlow: (1, 1, 0)}[table]
        assert left() == (1, 0, 0)


# ---------------------------------------------------------------------------------------------
# Any history


def kept_by_hand(runs: list[DataFlowRun], keep_days: int, keep_runs: int) -> set[str]:
    """Return the `worker` of each run that the rule keeps, in plain Python."""
    newest_first = sorted(runs, key=lambda run: (run.ended_at or NOON, run.id), reverse=True)
    found = set()
    seen: Counter[tuple[int, str]] = Counter()
    for run in newest_first:
        seen[run.data_flow_id, run.status] += 1
        young = run.ended_at is None or run.ended_at >= NOON - keep_days * DAY
        if young or seen[run.data_flow_id, run.status] <= keep_runs:
            found.add(run.worker or "")
    return found


@pytest.mark.parametrize("seed", range(SEEDS))
def test_of_any_history_exactly_that_is_left_which_the_rule_keeps(
    make_app: MakeApp,
    post: Post,
    history: History,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    chance = random.Random(seed)  # noqa: S311 - an example, and the seed repeats it
    days, runs = chance.randint(1, 5), chance.randint(1, 6)
    monkeypatch.setattr(pruning, "FLOWS", chance.randint(1, 4))
    monkeypatch.setattr(pruning, "ROWS", chance.randint(4, 9))
    for name in (f"flow {number}" for number in range(chance.randint(1, 6))):
        flow = idle_flow(name)
        # Whole hours, so that some end in the same moment and some on the very limit.
        history.add(
            *(
                ended(
                    flow,
                    chance.choice(["success", "success", "failed"]),
                    chance.randint(0, 24 * 8) * DAY / 24,
                    worker=f"{name}, run {number}",
                )
                for number in range(chance.randint(1, 25))
            )
        )
    expected = kept_by_hand(history.all(select(DataFlowRun)), days, runs)
    app = make_app(**keep(days, runs))

    for _ in range(50):  # more than it takes
        post(app)
        if history.runs() == sorted(expected):
            break
    post(app)

    assert history.runs() == sorted(expected)


# ---------------------------------------------------------------------------------------------
# heartbeat prune


def test_the_command_removes_all_there_is_to_remove_and_states_how_much(
    command: Command, history: History
) -> None:
    flow = idle_flow()
    long_ago = Clock().now() - NOON + 400 * DAY  # the command knows the real time only
    history.add(*(ended(flow, "success", long_ago) for _ in range(2 * pruning.ROWS + 101)))
    history.add(*(data_flow_beat(received_at=NOON - long_ago) for _ in range(pruning.ROWS)))

    first, second = command("prune"), command("prune", "--json")

    assert (first.exit_code, first.output) == (0, "removed 1001 runs and 500 beats\n")
    assert json.loads(second.stdout) == {"runs": 0, "beats": 0}
    assert history.count(DataFlowRun.id) == 100
    assert history.count(DataFlowBeat.id) == 0


def test_the_command_keeps_what_the_settings_say(command: Command, history: History) -> None:
    flow = idle_flow()
    long_ago = Clock().now() - NOON
    for age in (5, 4, 3, 2):
        history.add(ended(flow, "failed", long_ago + age * DAY, worker=f"{age} days ago"))

    command("prune", **keep(days=3, runs=1))

    assert history.runs() == ["2 days ago"]


def test_the_command_reports_a_database_that_is_not_migrated(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'fresh.sqlite'}")

    result = command("prune")

    assert result.exit_code == 1
    assert "run `heartbeat migrate`" in result.output
