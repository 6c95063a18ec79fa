"""Watches flows for the subscribers of their events, on a thread of its own.

The state of an alarm is changed while the flow's row is locked, so that of all processes exactly
one sends its message. A failure sets `alarm_check_at` in the transaction that records it: if its
process dies then, the next beat of any process raises the alarm.
"""

import logging
import threading
from collections import deque
from collections.abc import Collection, Sequence
from datetime import timedelta
from functools import partial
from statistics import median
from typing import Any

from pyramid.registry import Registry
from sqlalchemy import or_, select, true, union
from sqlalchemy.orm import Session, defer
from zope.interface import implementedBy

from ...core import Heartbeat
from ...db import Waiters, begin_writing
from ...db.stored import readable
from ...events import BeatEnded, Event, FlowDisabled, RunEnded
from ...models import DataFlow, DataFlowRun, RunStatus, Trigger
from ...redaction import describe_error, error_text
from ...runs.unreadable import problem_of
from . import events
from .state import CHECK_EVERY, advance, alarm_of, state_at

# The limit for events that wait. A dropped failure is found by the check of a beat.
MAX_WAITING = 10_000
# Flows in a transaction, and flows that are checked after a beat.
BATCH, FLOWS_PER_BEAT = 100, 10_000
# The pause before events are handled, so that short runs share statements, in seconds.
PAUSE = 0.2
# The limit for the wait for SQLite's write lock, and for the end of the process, in seconds.
LOCK_SECONDS, FLUSH_SECONDS = 10.0, 1.0
# A run is slow if it took longer than a second and SLOW times the median of the last SUCCESSES.
SLOW, SLOW_SECONDS, SUCCESSES, FEWEST_SUCCESSES = 3, 1.0, 30, 5

_NEWEST = DataFlowRun.ended_at.desc(), DataFlowRun.id.desc()
_FLOWS = select(DataFlow).options(defer(DataFlow.configuration)).order_by(DataFlow.id)

log = logging.getLogger(__name__)


class Watch:
    """The watch of an application in this process. The thread starts with the first event."""

    def __init__(self, heartbeat: Heartbeat, registry: Registry) -> None:
        self.heartbeat, self.registry = heartbeat, registry
        self._waiters = Waiters(1, LOCK_SECONDS)
        self._events = deque[Event](maxlen=MAX_WAITING)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_busy = False
        self._ending = threading.Event()
        self._wanted = set[type]()
        # Whether flows whose options are new have been found.
        self._knows_options = False

    def start(self) -> None:
        """Follow what happens, if anything subscribes to its events."""
        self._wanted = {kind for kind in events.KINDS if self._is_wanted(kind)}
        if self._wanted:
            self.heartbeat.subscribers.append(self.follow)
            # Before the hook that waits until the messages are sent.
            self.heartbeat.at_exit.insert(0, self.flush)

    def _is_wanted(self, kind: type) -> bool:
        return bool(self.registry.adapters.subscriptions([implementedBy(kind)], None))

    def follow(self, happened: Event) -> None:
        """Take note of an event."""
        if not isinstance(happened, RunEnded | BeatEnded | FlowDisabled):
            return
        with self._changed:
            if len(self._events) == MAX_WAITING:
                log.warning("alarms do not keep up: the oldest of %d events is lost", MAX_WAITING)
            self._events.append(happened)
            if self._thread is None or not self._thread.is_alive():  # as after a fork
                self._thread = threading.Thread(
                    target=self._work, name="heartbeat-alarms", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def flush(self) -> bool:
        """Wait until the events are handled, but no longer than FLUSH_SECONDS.

        Return whether none is left.
        """
        self._ending.set()
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                return not self._events
            return self._changed.wait_for(self._is_idle, FLUSH_SECONDS)

    def _is_idle(self) -> bool:
        return not (self._events or self._is_busy)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._events)
            # Not woken up by each event, which would cost the beat time.
            self._ending.wait(PAUSE)
            with self._changed:
                self._is_busy = True
                batch = [*self._events]
                self._events.clear()
            try:
                self._handle(batch)
            except Exception as error:  # noqa: BLE001 - the thread goes on
                log.warning("alarms were not checked, a later beat retries: %s", error_text(error))

    def _handle(self, batch: Sequence[Event]) -> None:
        ended = [event for event in batch if isinstance(event, RunEnded)]
        for run in ended:
            self._publish_run(run)
        paused = {each.data_flow_id for each in batch if isinstance(each, FlowDisabled)}
        failed = {run.data_flow_id for run in ended if run.status == RunStatus.FAILED}
        self._check(failed | paused)
        self._check(self._alarmed([*{run.data_flow_id for run in ended} - failed]))
        if any(isinstance(event, BeatEnded) and event.error is None for event in batch):
            self._check(self._due())

    def _publish(self, event: object) -> None:
        if type(event) not in self._wanted:
            return
        try:
            self.registry.notify(event)
        except Exception as error:  # noqa: BLE001 - the subscribers of other events are called
            details = describe_error(error, self.heartbeat.secrets())
            kind = type(event).__name__
            log.error("a subscriber of %s failed\n%s", kind, details["error_backtrace"])  # noqa: TRY400 - redacted

    def _publish_run(self, run: RunEnded) -> None:
        if run.status == RunStatus.FAILED:
            self._publish(events.FlowFailed(run.flow_name, run))
            return
        self._publish(events.FlowSucceeded(run.flow_name, run))
        seconds = run.duration or 0
        if seconds > SLOW_SECONDS and events.FlowSlow in self._wanted:
            usual = self._usual_duration(run)
            if usual is not None and seconds > SLOW * usual:
                self._publish(events.FlowSlow(run.flow_name, run, usual))

    def _usual_duration(self, run: RunEnded) -> float | None:
        """Return the median of the last successes before a run; None if there are too few."""
        successes = select(DataFlowRun.duration).where(
            DataFlowRun.data_flow_id == run.data_flow_id,
            DataFlowRun.status == RunStatus.SUCCESS.value,
            DataFlowRun.id != run.id,
        )
        with self.heartbeat.session() as session:
            found = session.scalars(successes.order_by(*_NEWEST).limit(SUCCESSES))
            durations = [each for each in map(readable, found) if each is not None]
        return median(durations) if len(durations) >= FEWEST_SUCCESSES else None

    def _alarmed(self, flow_ids: Sequence[int]) -> list[int]:
        """Return those of the flows that are in alarm."""
        found = list[int]()
        for start in range(0, len(flow_ids), BATCH):
            mine = DataFlow.id.in_(flow_ids[start : start + BATCH])
            alarmed = select(DataFlow.id).where(mine, DataFlow.alarm_state.is_not(None))
            with self.heartbeat.session() as session:
                found += session.scalars(alarmed)
        return found

    def _due(self) -> Sequence[int]:
        """Return the flows whose check is due, or was set by a clock that was ahead.

        At first also those whose option is new, or shorter than it was.
        """
        now, limits = self.heartbeat.clock.now(), self.heartbeat.success_limits()
        seconds = max([CHECK_EVERY.total_seconds(), *limits])
        check_at = DataFlow.alarm_check_at
        # Each part reads a range of the index: with OR, a database might read all of it.
        parts = [check_at <= now, check_at > now + timedelta(seconds=seconds)]
        if not self._knows_options:
            for limit, handlers in limits.items():
                is_new = or_(check_at.is_(None), check_at > now + timedelta(seconds=limit))
                parts.append(DataFlow.handler.in_(handlers) & (DataFlow.enabled == true()) & is_new)
        known = DataFlow.handler.in_([*self.heartbeat.flows])
        flows = select(DataFlow.id).where(known).order_by(check_at).limit(FLOWS_PER_BEAT)
        due = union(*(select(flows.where(part).subquery()) for part in parts))
        with self.heartbeat.session() as session:
            found = session.scalars(due).all()
        self._knows_options = self._knows_options or len(found) < FLOWS_PER_BEAT
        return found

    def _check(self, flow_ids: Collection[int]) -> None:
        """Check flows, and publish their alarms."""
        ids = sorted(flow_ids)
        for start in range(0, len(ids), BATCH):
            step = partial(self._change, ids=ids[start : start + BATCH])
            for alarm in self.heartbeat.transact(step):
                self._publish(alarm)

    def _change(self, session: Session, ids: Sequence[int]) -> list[events.FlowAlarm]:
        begin_writing(session, self._waiters)
        flows = session.scalars(_FLOWS.where(DataFlow.id.in_(ids)).with_for_update()).all()
        active = DataFlowRun.data_flow_id.in_(ids), DataFlowRun.active == 1
        is_retry = DataFlowRun.trigger == Trigger.RETRY.value
        retried = {*session.scalars(select(DataFlowRun.data_flow_id).where(*active, is_retry))}
        alarms, now = list[events.FlowAlarm](), self.heartbeat.clock.now()
        for flow in flows:
            state, definition = flow.alarm_state, self.heartbeat.flows.get(flow.handler)
            is_new_pause = state == events.FlowPaused.state and flow.alarmed_at is None
            if is_new_pause and flow.enabled:  # it has ended before anybody was notified
                flow.alarm_state = None
            if flow.enabled or not is_new_pause:
                if definition is None:  # the check is left to a process that knows the handler
                    continue
                if problem_of(flow):
                    flow.alarm_check_at = None
                    continue
                state = state_at(flow, definition, now, is_retried=flow.id in retried)
            if message := advance(flow, state, definition, now):
                failed = _last_failed(session, flow.id) if state == "failing" else None
                alarms.append(alarm_of(flow, message, definition, failed=failed))
        session.flush()
        return alarms


def _last_failed(session: Session, flow_id: int) -> Any:
    columns = DataFlowRun.error_type, DataFlowRun.error_message
    failed = select(DataFlowRun.id.label("run_id"), *columns).where(
        DataFlowRun.data_flow_id == flow_id, DataFlowRun.status == RunStatus.FAILED.value
    )
    return session.execute(failed.order_by(*_NEWEST).limit(1)).one_or_none()
