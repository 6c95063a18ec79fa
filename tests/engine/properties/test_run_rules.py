"""Whatever happens to runs, in whatever order: the rules of their life hold after each event.

Several heartbeats on one database stand for several processes, which share a clock that stands
still. What ought to be is written down here a second time, in another way than in the engine, and
compared with the database after each event.
"""
# The docstrings of rules describe events, and are not in the imperative.
# ruff: noqa: D401

import os
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, event, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from data_flows.heartbeat import Heartbeat
from data_flows.heartbeat.db import begin_writing
from data_flows.heartbeat.errors import ActiveRunError
from data_flows.heartbeat.models import DataFlow, DataFlowRun
from data_flows.heartbeat.run import ClaimedRun
from data_flows.heartbeat.runs.claim import claim
from data_flows.heartbeat.runs.due import look
from data_flows.heartbeat.runs.execute import execute
from data_flows.heartbeat.runs.lease import renew
from data_flows.heartbeat.runs.reap import expired_runs, reap
from data_flows.heartbeat.runs.register import register
from data_flows.heartbeat.runs.request import claim_by_hand
from data_flows.heartbeat.runs.set_back import follow_clock
from data_flows.heartbeat.schedules.rule import Rule, rescheduled

from ..conftest import DATABASE, FakeClock, heartbeat_of
from ..notes import Note

# How many examples there is time for. Servers answer more slowly than a file.
EXAMPLES = {"sqlite": "30", "postgresql": "5", "mysql": "5"}

LEASE = timedelta(minutes=5)
MOST_ATTEMPTS = 10
SKEW = timedelta(seconds=10)
# SQLite compares some times to the millisecond only.
NEARLY = timedelta(milliseconds=1)
ENDED = {"success", "failed"}

# Name, interval in seconds, and what becomes of a slot whose run was lost.
FLOWS = {"minutely": (60, "retry"), "often": (300, "retry"), "hourly": (3_600, "fail")}

flow_names = st.sampled_from(sorted(FLOWS))
intervals = st.sampled_from([60, 90, 300, 3_600])
processes = st.integers(0, 2)
# What a flow does, besides writing its row: only the first and the last are successes.
behaviours = st.sampled_from(["succeed", "raise", "swallow", "survive"])
passing = st.sampled_from([0, 1, 57, 60, 100, 290, 301, 620, 3_600, 20_000])
# Most of the time the clock is right.
leaps = st.sampled_from([0] * 12 + [-90_000, -7_200, -3_600, -301, -30, -5, 0.25, 30, 301, 90_000])


@dataclass
class ExpectedFlow:
    """The expected state of a flow's row."""

    id: int
    name: str
    interval: int
    declared: int
    next_slot: datetime
    last_slot: datetime | None = None
    window_starts: datetime | None = None
    last_run: tuple[datetime | None, str | None] = (None, None)
    last_success: datetime | None = None
    enabled: bool = True

    @property
    def step(self) -> timedelta:
        """The interval."""
        return timedelta(seconds=self.interval)

    def due(self, now: datetime) -> tuple[datetime, int]:
        """Count from the next slot to the latest that is due; give it, and how many it passes."""
        if self.last_slot is None:
            return now, 0
        slot, passed = self.next_slot, 0
        while slot + self.step <= now:
            slot, passed = slot + self.step, passed + 1
        return slot, passed

    def window(self, slot: datetime | None, now: datetime) -> tuple[datetime, datetime]:
        """Give the window of a run that is claimed now; the first one sets where windows start."""
        end = now if slot is None or slot > now else slot
        if self.window_starts is None:
            self.window_starts = end - self.step
        return self.window_starts, max(self.window_starts, end)

    def take(self, slot: datetime) -> None:
        """Move the grid past a slot."""
        self.last_slot, self.next_slot = slot, slot + self.step


@dataclass
class World:
    """What all examples share: the processes, the clock, and what flows do when they are called."""

    processes: list[Heartbeat]
    clock: "Clock"
    play: Callable[[Any], None] = field(default=lambda _run: None)


class Clock(FakeClock):
    """Its sleeper sleeps while other things happen."""

    meanwhile: Callable[[], None] | None = None

    def sleep(self, seconds: float) -> None:
        """Advance the clock, and perform the events that are due meanwhile."""
        self.advance(seconds)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()


class Rules(RuleBasedStateMachine):
    """Events, what is expected of each, and what always holds."""

    def __init__(self, world: World) -> None:
        """Empty the tables."""
        super().__init__()
        self.world, self.clock = world, world.clock
        self.clock.__init__()  # type: ignore[misc]
        self.clock.meanwhile = None
        world.play = self.play
        self.flows: dict[int, ExpectedFlow] = {}
        self.runs: dict[int, Any] = {}
        self.held: list[list[ClaimedRun]] = [[] for _ in world.processes]
        self.leases: dict[str, datetime] = {}
        self.doomed: set[str] = set()
        self.removed_successes: list[str] = []
        self.behaviour = "succeed"
        self.meanwhile: Callable[[], None] | None = None
        self.leapt = 0
        with self.look.session() as session:
            for model in (Note, DataFlowRun, DataFlow):
                session.execute(delete(model))

    @property
    def look(self) -> Heartbeat:
        """The process through which operators act and the test looks."""
        return self.world.processes[-1]

    @property
    def now(self) -> datetime:
        """What the clock shows."""
        return self.clock.now()

    def named(self, name: str) -> ExpectedFlow | None:
        """Find a flow that has a row."""
        return next((flow for flow in self.flows.values() if flow.name == name), None)

    def active(self, flow: ExpectedFlow) -> Any:
        """Find the flow's run that has not ended."""
        runs = (run for run in self.runs.values() if run.data_flow_id == flow.id)
        return next((run for run in runs if run.status not in ENDED), None)

    # Time

    @rule(seconds=passing, leap=leaps)
    def time_passes(self, seconds: float, leap: float) -> None:
        """The clock goes on, and is sometimes set."""
        self.clock.advance(seconds)
        self.clock.leap(leap)

    @rule(name=flow_names, steps=st.integers(2, 50))
    def the_clock_leaps_onto_a_slot(self, name: str, steps: int) -> None:
        """Somebody sets the clock back to the very moment of a slot that has run."""
        if (flow := self.named(name)) and flow.last_slot is not None:
            self.clock.leap((flow.last_slot - self.now - steps * flow.step).total_seconds())

    def leap_to_a_moment_that_never_was(self, seconds: float) -> None:
        """Leap so that no time is met again to the microsecond."""
        self.leapt += 1
        self.clock.leap(seconds + self.leapt / 1_000_000)

    # Processes

    @initialize()
    def begin(self) -> None:
        """A process starts, and declares the flows."""
        for process in self.world.processes:
            for name, (interval, _) in FLOWS.items():
                process.flows[name] = process.flows[name].model_copy(update={"every": interval})
        self.start_again(0)

    def start_again(self, index: int) -> None:
        """A process starts, and declares flows that are new, removed or changed."""
        process = self.world.processes[index]
        self.held[index].clear()
        process.registered.clear()
        register(process)
        with process.session() as session:
            rows = session.execute(select(DataFlow.id, DataFlow.name)).all()
        for row in rows:
            every = process.flows[row.name].every
            assert every is not None
            flow = self.flows.get(row.id)
            if flow is None:
                self.flows[row.id] = ExpectedFlow(row.id, row.name, every, every, self.now)
            elif flow.declared != every:
                if flow.interval == flow.declared:
                    self.expect_interval(flow, every)
                flow.declared = every
        assert {flow.name for flow in self.flows.values()} == set(FLOWS)

    @rule(index=processes, name=flow_names, interval=st.none() | intervals)
    def die(self, index: int, name: str, interval: int | None) -> None:
        """A process forgets its claims; with an interval, all start again with new code."""
        self.held[index].clear()
        if interval is not None:
            for process in self.world.processes:
                process.flows[name] = process.flows[name].model_copy(update={"every": interval})
            self.start_again(index)

    @rule(index=processes, seconds=passing, most=st.integers(1, 4))
    def claim(self, index: int, seconds: float, most: int) -> None:
        """A process claims what is pending or due."""
        self.clock.advance(seconds)
        self.take(index, most)

    def take(self, index: int, most: int) -> int:
        """Claim what is pending or due; give how many runs were got, or slots passed over."""
        process, now = self.world.processes[index], self.now
        enabled = [flow for flow in self.flows.values() if flow.enabled]
        pending = [flow for flow in enabled if (run := self.active(flow)) and not run.claim_id]
        due = [flow for flow in enabled if not self.active(flow) and flow.next_slot <= now]

        claimed = process.transact(lambda session: claim(session, process, most))

        assert len(claimed) <= most
        for run in claimed:
            flow = self.flows[run.data_flow_id]
            assert flow.enabled, "claimed though it is disabled"
            if run.trigger == "schedule":
                assert not self.active(flow)
                slot, passed = flow.due(now)
                assert flow.next_slot <= now, "not due"
                assert (run.scheduled_for, run.missed_slots) == (slot, passed)
                assert (run.window_start, run.window_end) == flow.window(slot, now)
                flow.take(slot)
            else:
                assert run.trigger == "retry"
                assert flow in pending
            self.expect_claim(index, run)
        passed_over = self.expect_slots_passed_over(now)
        got = {run.data_flow_id for run in claimed}
        if len(claimed) < most and not passed_over:
            assert {flow.id for flow in pending + due} <= got, "nobody held it, and it was left"
        return len(claimed) + passed_over

    def expect_slots_passed_over(self, now: datetime) -> int:
        """Let the grids move on of flows whose slot has a run already; give how many did."""
        rows, moved = self.read(DataFlow), 0
        taken = {(run.data_flow_id, run.scheduled_for) for run in self.runs.values()}
        for flow in self.flows.values():
            slot, _ = flow.due(now)
            if rows[flow.id].next_run_at != flow.next_slot and (flow.id, slot) in taken:
                flow.take(slot)
                moved += 1
        return moved

    @rule(index=processes, name=flow_names)
    def run_now(self, index: int, name: str) -> None:
        """An operator runs a flow by hand."""
        process, flow = self.world.processes[index], self.named(name)
        if flow is None:
            return
        busy = self.active(flow)
        try:
            run = process.transact(lambda session: claim_by_hand(session, process, name))
        except ActiveRunError:
            assert busy
            assert busy.claim_id, "what waits is started instead"
            return
        if busy:
            assert (run.id, run.trigger, busy.claim_id) == (busy.id, "retry", None)
        else:
            assert (run.trigger, run.scheduled_for, run.attempt) == ("manual", None, 1)
            assert (run.window_start, run.window_end) == flow.window(None, self.now)
        self.expect_claim(index, run)

    def expect_claim(self, index: int, run: ClaimedRun) -> None:
        """Record which process holds the run, and until when."""
        assert run.worker == self.world.processes[index].worker
        assert run.claim_id not in self.leases, "no claim's id comes twice"
        self.leases[run.claim_id] = self.now + LEASE
        self.held[index].append(run)

    @precondition(lambda self: any(self.held))
    @rule(
        which=st.integers(0, 8),
        behaviour=behaviours,
        index=processes,
        seconds=passing,
        meanwhile=st.sampled_from([None, None, "renew", "beat", "go on", "remove"]),
    )
    def execute(
        self, which: int, behaviour: str, index: int, seconds: float, meanwhile: str | None
    ) -> None:
        """A flow stands still at its work while another process goes on, and maybe reaps it."""

        def happen() -> None:
            self.clock.advance(seconds)
            if meanwhile == "renew":
                self.renew(index)
            elif meanwhile == "remove":
                self.remove(sorted(FLOWS)[which % len(FLOWS)])
            elif meanwhile is not None:
                self.look_for_lost(index)
            if meanwhile == "go on":
                self.claim_and_execute_all(index)
            self.all_rules_hold()

        self.execute_one(which, behaviour, happen)

    def execute_one(
        self, which: int, behaviour: str = "succeed", meanwhile: Callable[[], None] | None = None
    ) -> None:
        """Execute a run that was claimed at some time, be it still its process's own or not."""
        holders = [(index, run) for index, runs in enumerate(self.held) for run in runs]
        index, run = holders[which % len(holders)]
        self.held[index].remove(run)
        self.behaviour, self.meanwhile = behaviour, meanwhile
        status = execute(self.world.processes[index], run)

        row = self.read(DataFlowRun).get(run.id)
        if row and row.claim_id == run.claim_id and row.error_type != "LeaseExpired":
            succeeds = behaviour in {"succeed", "survive"}
            assert row.status == ("success" if succeeds else "failed")
            assert status == row.status
        else:
            assert status == "failed"

    def play(self, run: Any) -> None:
        """Be the flow: write a row that names the claim, and behave as the example decides."""
        behaviour, meanwhile = self.behaviour, self.meanwhile or (lambda: None)
        session = run.session
        claim_id = session.scalar(select(DataFlowRun.claim_id).where(DataFlowRun.id == run.id))
        # On SQLite a writer blocks all others: there it stops before it writes.
        is_sqlite = session.get_bind().dialect.name == "sqlite"
        if is_sqlite:
            meanwhile()
        if behaviour == "survive":
            with suppress(DBAPIError), session.begin_nested():
                session.execute(text("SELECT * FROM there_is_no_such_table"))
        session.execute(insert(Note).values(name=str(claim_id), mark=f"{run.id} {claim_id}"))
        if not is_sqlite:
            meanwhile()
        if behaviour == "swallow":
            with suppress(DBAPIError):
                session.execute(text("SELECT * FROM there_is_no_such_table"))
        if behaviour == "raise":
            raise ValueError("as the example says")

    @rule(index=processes)
    def renew(self, index: int) -> None:
        """A process renews the leases of all that it holds, be it still its own or not."""
        claims = {run.claim_id: run.id for run in self.held[index]}
        passed_over = renew(self.world.processes[index], self.held[index])

        rows = self.read(DataFlowRun)
        live = [
            claim
            for claim, id_ in claims.items()
            if id_ in rows and (rows[id_].claim_id, rows[id_].status) == (claim, "in_progress")
        ]
        assert passed_over == 0, "nobody else holds a row"
        self.leases.update(dict.fromkeys(live, self.now + LEASE))
        self.doomed.difference_update(live)

    @rule(
        index=processes,
        seconds=passing,
        meanwhile=st.sampled_from(
            [None, None, "renew", "execute", "leap", "remove", "disable", "beat"]
        ),
        which=st.integers(0, 8),
    )
    def beat(self, index: int, seconds: float, meanwhile: str | None, which: int) -> None:
        """A process is called, and reaps what is lost."""
        self.clock.advance(seconds)
        self.look_for_lost(index, meanwhile, which)

    def look_for_lost(self, index: int, meanwhile: str | None = None, which: int = 0) -> None:
        """Look twice for what is lost, as a beat does; in between something else may happen."""
        process, now = self.world.processes[index], self.now
        running = [run for run in self.runs.values() if run.status == "in_progress"]
        lost = {run.claim_id for run in running if self.leases[run.claim_id] <= now}
        rows = self.read(DataFlow)
        with process.session() as session:
            suspects = expired_runs(session, now)
            ahead = look(session, process, now).ahead
        assert {run.claim_id for run in suspects} == lost
        if ahead:
            follow_clock(process)
        self.expect_clock_followed(now, rows, running, followed=ahead)
        if not suspects:
            return
        self.doomed = set(lost)
        self.clock.meanwhile = lambda: self.happens_between_looks(meanwhile, which)
        reaped = reap(process, suspects)

        claims = {run.claim_id: run for run in self.read(DataFlowRun).values()}
        ended = [
            claims[lease] for lease in lost if lease in claims and claims[lease].status in ENDED
        ]
        expired = [run for run in ended if run.error_type == "LeaseExpired"]
        assert reaped == len(expired) or meanwhile == "beat"
        left = [claims[lease].status for lease in self.doomed if lease in claims]
        assert "in_progress" not in left, "lost, and not reaped"
        self.all_rules_hold()
        self.doomed = set()

    def happens_between_looks(self, what: str | None, which: int) -> None:
        """Let something happen while the reaper waits for its second look."""
        if what == "renew":
            self.renew(which % len(self.held))
        elif what == "execute" and any(self.held):
            self.execute_one(which)
        elif what == "leap":
            self.leap_to_a_moment_that_never_was([-90_000, -600, 600][which % 3])
            self.renew(which % len(self.held))
        elif what == "remove":
            self.remove(sorted(FLOWS)[which % len(FLOWS)])
        elif what == "disable":
            self.enable(sorted(FLOWS)[which % len(FLOWS)], enabled=False)
        elif what == "beat":
            doomed = set(self.doomed)
            self.look_for_lost(which % len(self.held))
            self.doomed |= doomed

    def expect_clock_followed(
        self,
        now: datetime,
        rows: dict[int, Any],
        running: list[Any],
        *,
        followed: bool,
    ) -> None:
        """Make the times that are ahead of the clock count from now."""
        limit, late = now + SKEW, [run for run in running if run.updated_at > now + SKEW]
        slots = [flow for flow in self.flows.values() if flow.last_slot and flow.last_slot > limit]
        far = [flow for flow in slots if flow.next_slot - flow.step > limit + NEARLY]
        assert followed or not (far or late), "silent for long"
        if not followed:
            return
        for run in late:
            self.leases[run.claim_id] = now + (run.lease_expires_at - run.updated_at)
        after = self.read(DataFlow)
        for flow in self.flows.values():
            was, row = rows[flow.id], after[flow.id]
            times = [was.created_at, was.updated_at, flow.last_slot, flow.last_success]
            times.append(was.last_success_started_at)
            if any(time and time > limit for time in times):
                self.expect_grid_anew(flow, row, now)
            if flow.last_success and flow.last_success > now:
                assert timedelta(0) <= now - row.last_success_at < timedelta(seconds=1)
                flow.last_success = row.last_success_at
        before = [rows[id_].last_success_at or now for id_ in sorted(rows)]
        then = [after[id_].last_success_at or now for id_ in sorted(rows)]
        order = [(one > two, one == two) for one in before for two in before]
        if all(rows[id_].last_success_at for id_ in rows):
            assert order == [(one > two, one == two) for one in then for two in then]

    def expect_grid_anew(self, flow: ExpectedFlow, row: Any, now: datetime) -> None:
        """A flow goes on from now, on no point of a grid whose slots have run, and never later."""
        if flow.last_slot is None:
            flow.next_slot = min(flow.next_slot, now)
        elif flow.last_slot > now + SKEW:
            begin = row.last_slot_at
            assert begin - now in {timedelta(0), timedelta(microseconds=1)}
            assert (flow.last_slot - begin) % flow.step, "on the grid whose slots have run"
            flow.last_slot, flow.next_slot = begin, min(flow.next_slot, begin)
        else:
            flow.next_slot = min(flow.next_slot, max(flow.last_slot + flow.step, now))

    @rule(index=processes)
    def calm_comes(self, index: int) -> None:
        """Nobody holds a run any more, and one process goes on: all that was begun ends."""
        for runs in self.held:
            runs.clear()
        leases = [
            self.leases[run.claim_id] for run in self.runs.values() if run.active and run.claim_id
        ]
        last = max(leases, default=self.now)
        self.clock.advance(max((last - self.now).total_seconds(), 0) + 1)
        self.look_for_lost(index)
        self.claim_and_execute_all(index)
        left = [run for run in self.runs.values() if run.active]
        assert all(run.status == "pending" for run in left)
        assert not any(self.flows[run.data_flow_id].enabled for run in left)

    def claim_and_execute_all(self, index: int) -> None:
        """Go on as a beat does, until nothing is due."""
        others, self.held[index] = self.held[index], []
        while self.take(index, 4):
            while self.held[index]:
                before = [len(runs) for runs in self.held[:index]]
                self.execute_one(sum(before))
            self.all_rules_hold()
        self.held[index] = others

    # Operators

    def change(self, flow: ExpectedFlow, **columns: object) -> None:
        """Write to a flow's row."""
        with self.look.session() as session:
            session.execute(update(DataFlow).where(DataFlow.id == flow.id).values(**columns))

    @rule(
        name=flow_names,
        what=st.sampled_from(["disable", "enable", "reschedule", "move the next slot", "remove"]),
        interval=intervals,
        seconds=st.sampled_from([-4_000, -60, 0, 45, 4_000]),
    )
    def operator_acts(self, name: str, what: str, interval: int, seconds: float) -> None:
        """An operator changes a flow's row; one that was removed is declared again."""
        flow = self.named(name)
        if flow is None:
            self.start_again(0)
        elif what == "remove":
            self.remove(name)
        elif what == "reschedule":
            next_slot = rescheduled(Rule(interval), flow.last_slot, self.now)
            self.change(flow, run_interval=interval, next_run_at=next_slot)
            self.expect_interval(flow, interval)
        elif what == "move the next slot":
            flow.next_slot = self.now + timedelta(seconds=seconds)
            self.change(flow, next_run_at=flow.next_slot)
        else:
            self.enable(name, enabled=what == "enable")

    def enable(self, name: str, *, enabled: bool) -> None:
        """Enable or disable a flow."""
        if flow := self.named(name):
            self.change(flow, enabled=enabled)
            flow.enabled = enabled

    def expect_interval(self, flow: ExpectedFlow, interval: int) -> None:
        """Let the next slot come an interval after the last one, at once if that has passed."""
        flow.interval, flow.next_slot = interval, self.now
        if flow.last_slot is not None and flow.last_slot + flow.step > self.now:
            flow.next_slot = flow.last_slot + flow.step

    def remove(self, name: str) -> None:
        """Remove a flow with its runs."""
        if flow := self.named(name):
            with self.look.session() as session:
                begin_writing(session)
                session.execute(delete(DataFlow).where(DataFlow.id == flow.id))
            mine = [run for run in self.runs.values() if run.data_flow_id == flow.id]
            self.removed_successes += [run.claim_id for run in mine if run.status == "success"]
            for run in mine:
                del self.runs[run.id]
            del self.flows[flow.id]

    # What always holds

    def read(self, model: Any) -> dict[int, Any]:
        """Read a table: its rows by id, in the order of their ids."""
        with self.look.engine.connect() as connection:
            rows = connection.execute(select(model.__table__).order_by(model.id)).all()
        return {row.id: row for row in rows}

    @invariant()
    def all_rules_hold(self) -> None:
        """Compare the database with the expected state, and with its state before."""
        rows, before = self.read(DataFlowRun), self.runs
        self.runs = rows
        for id_, was in before.items():
            self.check_change(was, rows[id_])
        for id_, run in rows.items():
            self.check_run(run)
            newly_ended = run.status in ENDED and (
                id_ not in before or before[id_].status not in ENDED
            )
            if newly_ended:
                self.check_end(run)
        self.check_once(rows.values())
        self.check_flows()

    def check_change(self, was: Any, run: Any) -> None:
        """A run moves on along its statuses, under one claim; what has ended never changes."""
        order = ["pending", "in_progress", "ended"]
        places = [order.index("ended" if row.status in ENDED else row.status) for row in (was, run)]
        assert places == sorted(places)
        assert was.status not in ENDED or run == was
        assert was.claim_id in {None, run.claim_id}
        kept = ("data_flow_id", "trigger", "scheduled_for", "attempt", "missed_slots")
        assert [getattr(was, name) for name in kept] == [getattr(run, name) for name in kept]

    def check_run(self, run: Any) -> None:
        """The columns of a run's row are consistent."""
        if run.status == "pending":
            assert (run.trigger, run.claim_id, run.lease_expires_at) == ("retry", None, None)
        else:
            assert run.claim_id
            assert run.worker
            assert run.lease_expires_at == self.leases[run.claim_id]
            assert run.started_at
        assert run.window_start <= run.window_end
        if run.attempt == 1:
            assert run.scheduled_for is None or run.started_at >= run.scheduled_for, "early"
            assert run.window_end <= max(run.started_at, run.window_start), "of the future"
        else:
            self.check_retry(run)
        assert (run.ended_at is not None) == (run.status in ENDED)
        assert run.ended_at is None or run.ended_at >= run.started_at

    def check_retry(self, run: Any) -> None:
        """A retry follows a lost run, and has its slot and window."""
        [lost] = [
            other
            for other in self.runs.values()
            if (other.data_flow_id, other.scheduled_for, other.attempt)
            == (run.data_flow_id, run.scheduled_for, run.attempt - 1)
        ]
        assert (lost.error_type, run.trigger) == ("LeaseExpired", "retry")
        kept = ("window_start", "window_end", "missed_slots")
        assert [getattr(lost, name) for name in kept] == [getattr(run, name) for name in kept]

    def check_end(self, run: Any) -> None:
        """Who was reaped was lost; a slot is due again only then, and only where that is wanted."""
        flow = self.flows[run.data_flow_id]
        reaped = run.error_type == "LeaseExpired"
        if reaped:
            assert run.claim_id in self.doomed, "reaped though it lived"
        wanted = FLOWS[flow.name][1] == "retry" and flow.enabled
        again = reaped and wanted and run.scheduled_for is not None
        next_one = [
            other
            for other in self.runs.values()
            if run.scheduled_for is not None
            and (other.data_flow_id, other.scheduled_for, other.attempt)
            == (run.data_flow_id, run.scheduled_for, run.attempt + 1)
        ]
        assert len(next_one) == (again and run.attempt < MOST_ATTEMPTS)
        # By the clock as it is, also where the run began when that was ahead.
        ended_at = min(run.ended_at, self.now)
        flow.last_run = ended_at, run.status
        if run.status == "success":
            assert run.window_start == flow.window_starts, "windows meet"
            flow.window_starts, flow.last_success = run.window_end, ended_at

    def check_once(self, runs: Any) -> None:
        """Nothing is there twice, and each success has the row that its flow wrote, no other."""
        successes = [run for run in runs if run.status == "success"]
        slots = [run for run in runs if run.scheduled_for is not None]
        for keys in (
            [run.data_flow_id for run in runs if run.status not in ENDED],
            [(run.data_flow_id, run.scheduled_for, run.attempt) for run in slots],
            [(run.data_flow_id, run.scheduled_for) for run in slots if run.status == "success"],
            [run.claim_id for run in runs if run.claim_id],
        ):
            assert not [key for key, count in Counter(keys).items() if count > 1]
        written = [row.name for row in self.read(Note).values()]
        assert sorted(written) == sorted(
            [run.claim_id for run in successes] + self.removed_successes
        )

    def check_flows(self) -> None:
        """The rows of flows are as expected."""
        rows = self.read(DataFlow)
        assert rows.keys() == self.flows.keys()
        for id_, flow in self.flows.items():
            row = rows[id_]
            assert (row.next_run_at, row.last_slot_at) == (flow.next_slot, flow.last_slot)
            assert (row.run_interval, row.enabled) == (flow.interval, flow.enabled)
            assert row.window_starts_at == flow.window_starts
            assert (row.last_run_at, row.last_run_status) == flow.last_run
            assert row.last_success_at == flow.last_success

    def teardown(self) -> None:
        """End each example in calm, unless it has failed already."""
        if sys.exc_info()[0] is None:
            for name in FLOWS:
                self.enable(name, enabled=True)
            self.calm_comes(0)
            self.all_rules_hold()
            assert not any(run.active for run in self.runs.values())


@pytest.fixture
def world(
    make_app: Callable[..., Any],
    clock: FakeClock,  # noqa: ARG001 - replaced by one with a hook
    notes: None,  # noqa: ARG001 - the table that flows write to
) -> World:
    """Three processes on one database, whose flows do what the example decides."""
    world = World([], Clock())

    def play(run: Any) -> None:
        world.play(run)

    for number in range(3):
        flows = [
            (play, {"name": name, "every": interval, "on_lost": on_lost})
            for name, (interval, on_lost) in FLOWS.items()
        ]
        made = heartbeat_of(make_app(*flows, **{"heartbeat.lease": "5m"}))
        # Real ones have different names, from the operating system.
        process = type("Process", (Heartbeat,), {"worker": f"process {number}"})(**vars(made))
        process.clock = world.clock
        if made.engine.dialect.name == "sqlite":
            event.listen(made.engine, "connect", hurry)
        world.processes.append(process)
    return world


def hurry(connection: Any, _record: object) -> None:
    """Spare SQLite the waiting for the disk: no power fails here."""
    connection.execute("PRAGMA synchronous=OFF")


def test_the_rules_hold_in_every_order_of_events(world: World) -> None:
    run_state_machine_as_test(
        lambda: Rules(world),  # type: ignore[arg-type] # its docstring allows any callable
        settings=settings(
            max_examples=int(os.environ.get("RULES_EXAMPLES", EXAMPLES[DATABASE])),
            stateful_step_count=40,
            deadline=None,
            database=None,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
