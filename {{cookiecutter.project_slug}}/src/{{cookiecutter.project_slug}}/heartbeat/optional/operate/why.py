"""Describes flows: their members, their next slots, and what happens next in a sentence."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from sqlalchemy import func, select, true
from sqlalchemy.orm import Session, aliased

from ...core import Heartbeat
from ...db.stored import readable, show
from ...durations import format_every
from ...errors import ScheduleError, UnknownFlowError
from ...models import NEVER_SCHEDULED, DataFlow, DataFlowBeat, DataFlowRun
from ...models.data_flow import with_active_run
from ...runs.due import RUN_OBSTACLES, SLOT_OBSTACLES, first_obstacle, query_params
from ...runs.request import rule_of
from ...runs.unreadable import Problem, disable_apart, problem_of, readable_values
from ...schedules.between import read_zone
from ...schedules.every import is_ahead
from ...schedules.rule import next_slots
from ...settings import BEATS_MISSED
from .members import FlowMembers

# Obstacles that a beat does not remove.
BEATS_DO_NOT_HELP = {"running", "unknown handler", "disabled"}
# Obstacles that are explained after an invalid schedule. None stands for no obstacle.
AFTER_THE_SCHEDULE = {"not due", "after", "when", None}


def describe(heartbeat: Heartbeat, session: Session, name: str | None = None) -> list[FlowMembers]:
    """Return the members of all flows, by name, or of the one called `name` alone.

    An unreadable flow is disabled, and described as disabled. Raises UnknownFlowError.
    """
    now = heartbeat.clock.now()
    any_run = aliased(DataFlowRun)
    ran_until = select(func.max(any_run.scheduled_for)).where(any_run.data_flow_id == DataFlow.id)
    is_stale = DataFlow.is_stale(now, heartbeat.success_limits())
    columns = (
        DataFlow,
        DataFlowRun,
        ran_until.scalar_subquery(),
        first_obstacle(heartbeat),
        is_stale,
    )
    mine = true() if name is None else DataFlow.name == name
    rows = with_active_run(select(*columns)).where(mine).order_by(DataFlow.name)
    found = session.execute(
        rows, query_params(now, heartbeat.flows, heartbeat.redeliver_after)
    ).all()
    if name is not None and not found:
        raise UnknownFlowError(name)
    beats = select(DataFlowBeat.received_at).order_by(DataFlowBeat.id.desc()).limit(1)
    beat_at = readable(session.scalars(beats).one_or_none())
    successes = _successes(heartbeat, session, {flow.handler for flow, *_ in found})
    described = []
    for flow, run, last_slot, obstacle, stale in found:
        if problem := problem_of(flow, run):
            if flow.enabled:
                disable_apart(heartbeat, flow.id, run.id if run else None)
            described.append(_without_unreadable(flow, problem))
            continue
        until = readable(last_slot)
        state = _State(heartbeat, now, flow, run, obstacle, stale, until, beat_at, successes)
        described.append(_members(state))
    return described


@dataclass
class _State:
    """A flow as it is at a moment.

    run: its active run. obstacle: the name of the gravest one. is_stale: whether a success is
    overdue. ran_until: its latest slot that has a run. beat_at: the time of the last beat.
    successes: by name of the flows that others wait for, the time of the last success.
    """

    heartbeat: Heartbeat
    now: datetime
    flow: DataFlow
    run: DataFlowRun | None
    obstacle: str | None
    is_stale: bool
    ran_until: datetime | None
    beat_at: datetime | None
    successes: Mapping[str, datetime | None]

    @cached_property
    def slots(self) -> list[datetime]:
        """The next slots: none if the flow is disabled or its schedule is invalid."""
        flow, now = self.flow, self.now
        if flow.enabled:
            with suppress(ScheduleError):
                return next_slots(rule_of(self.heartbeat, flow), flow.slots_begin(now), now)
        return []

    def why(self) -> str:
        """Return what prevents the next run, or when it comes, after what is wrong."""
        return " ".join([*self._alarms(), self._why_not_now()])

    def _alarms(self) -> Iterator[str]:
        flow, definition = self.flow, self.heartbeat.flows.get(self.flow.handler)
        if definition is None or not flow.enabled:
            return
        if flow.failures_in_a_row >= definition.alert_after:
            yield f"Failing: {flow.failures_in_a_row} failures in a row."
        if self.is_stale:
            last = f"since {self._at(flow.last_success_at)}" if flow.last_success_at else "yet"
            within = format_every(definition.expect_success_within or 0)
            yield f"Stale: no success {last}, but one is expected within {within}."

    def _why_not_now(self) -> str:
        obstacle, scheduler_problem = self.obstacle, self._scheduler_problem()
        if scheduler_problem and obstacle not in BEATS_DO_NOT_HELP:
            return scheduler_problem
        if self.run and obstacle is None:
            is_local = self.heartbeat.redeliver_after is None
            next_step = "starts it" if is_local else "sends it to a worker"
            return f"Run {self.run.id} is pending: the next beat {next_step}."
        if obstacle in AFTER_THE_SCHEDULE:
            if not self.slots:
                return "Its schedule cannot be read: give it another one."
            if self.ran_until and self.flow.cron and self.now < self.ran_until < self.slots[0]:
                return (
                    f"Not due until {self._at(self.slots[0])}: the clock was set back, and its "
                    f"slots up to {self._at(self.ran_until)} have run before."
                )
            if self.slots[0] > self.now:  # as when the row's slot lies outside of `between`
                obstacle = "not due"
        if obstacle is None:
            return f"Due since {self._at(self.slots[0])}: the next beat runs it."
        obstacles = RUN_OBSTACLES if self.run else (*SLOT_OBSTACLES, *self.heartbeat.obstacles)
        sentences = {each.name: each.sentence for each in obstacles}
        return sentences[obstacle].format_map(self._facts())

    def _scheduler_problem(self) -> str | None:
        if self.beat_at is None:
            return "No beat has come yet: set up a scheduler that calls the heartbeat."
        if is_ahead(self.beat_at, self.now):
            return (
                f"The clock was set back: the last beat came at {self._at(self.beat_at)} by it. "
                "The next beat makes all flows follow the clock as it is now."
            )
        silence = self.now - self.beat_at
        expected_every = timedelta(seconds=self.heartbeat.settings.expected_every)
        if silence > BEATS_MISSED * expected_every:
            minutes = silence // timedelta(minutes=1)
            silent = f"No beat has come for {minutes} minutes"
            return f"{silent}: check whether the scheduler still calls."
        return None

    def _facts(self) -> dict[str, object]:
        """Return the values for the placeholders of the sentences."""
        flow, definition = self.flow, self.heartbeat.flows.get(self.flow.handler)
        facts: dict[str, object] = {
            "handler": flow.handler,
            "disabled_reason": flow.disabled_reason or "no reason given",
            "slot": self._at(self.slots[0]) if self.slots else None,
            "held_because": flow.held_because,
        }
        if definition:
            since = flow.last_success_started_at or NEVER_SCHEDULED
            succeeded = {name: at or NEVER_SCHEDULED for name, at in self.successes.items()}
            missing = [name for name in definition.after if succeeded[name] <= since]
            between = f", in its window {definition.between}" if definition.between else ""
            facts |= {"missing": " and ".join(missing), "window": between}
        return facts | (self._facts_of_run(self.run) if self.run else {})

    def _facts_of_run(self, run: DataFlowRun) -> dict[str, object]:
        started_at = run.started_at or self.now
        ahead = " by a clock that was ahead then" if is_ahead(started_at, self.now) else ""
        retries, definition = self.flow.retries, self.heartbeat.flows.get(self.flow.handler)
        if retries is None and definition:
            retries = definition.retries
        return {
            "run": run.id,
            "started_at": f"{self._at(started_at)}{ahead}",
            "retry": run.attempt - 1,
            "retries": retries,
            "not_before": self._at(run.not_before) if run.not_before else None,
            "sent": self._sent(run),
        }

    def _sent(self, run: DataFlowRun) -> str:
        """Return when a run was sent to the workers, and how often again."""
        at = f"at {self._at(run.sent_at)}" if run.sent_at else ""
        if not run.redeliveries:
            return at
        often = {1: "once", 2: "twice"}.get(run.redeliveries, f"{run.redeliveries} times")
        return f"and sent again {often}, the last time {at}"

    def _at(self, moment: datetime) -> str:
        with suppress(ScheduleError, OverflowError):  # at the ends of the calendar
            moment = moment.astimezone(read_zone(self.flow.timezone))
        return f"{moment:%Y-%m-%d %H:%M:%S %Z}"


def _members(state: _State) -> FlowMembers:
    values = _values_of(state.flow)
    values["configuration"] = values["configuration"] or {}
    stale = state.is_stale and state.flow.enabled
    return FlowMembers(**values, why=state.why(), stale=stale, next_slots=state.slots)


def _without_unreadable(flow: DataFlow, problem: Problem) -> FlowMembers:
    """Return the members of an unreadable flow: None for each unreadable value."""
    values = _values_of(flow)
    reason = (not flow.enabled and values["disabled_reason"]) or str(problem)
    values["name"] = values["name"] or show(flow.name)
    values |= {"enabled": False, "disabled_reason": reason, "next_run_at": None}
    why = f"It is disabled: {reason}."
    return FlowMembers(**values, why=why, stale=False, next_slots=[])


def _values_of(flow: DataFlow) -> dict[str, Any]:
    """Return the readable values of a flow's row, and those members that have another form."""
    values = readable_values(flow)
    interval = values["run_interval"]
    values["every"] = interval and format_every(interval)
    if not flow.enabled:
        values["next_run_at"] = None
    return values


def _successes(
    heartbeat: Heartbeat, session: Session, handlers: set[str]
) -> Mapping[str, datetime | None]:
    """Return the time of the last success of each flow that the given handlers wait for."""
    flows = (heartbeat.flows[handler] for handler in handlers & heartbeat.flows.keys())
    if not (names := {name for flow in flows for name in flow.after}):
        return {}
    columns = select(DataFlow.name, DataFlow.last_success_at).where(DataFlow.name.in_(names))
    return {flow: readable(moment) for flow, moment in session.execute(columns)}
