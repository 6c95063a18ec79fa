"""Counts the coming slots, the work of each hour, and the flows that are due at once."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from heapq import merge
from itertools import groupby, islice, repeat
from operator import itemgetter
from typing import NamedTuple

from ...errors import ScheduleError
from ...schedules.rule import Rule, due, slots_after
from .members import Collision, Hour, PlannedFlow

NEXT_SLOTS = 3
# Counting ends after so many slots, in a few seconds. Flows that share their slots count once.
MAX_SLOTS = 500_000
# How many of the flows that collide are named.
MAX_NAMES = 5


class Coming(NamedTuple):
    """The coming slots of a flow. Flows of equal ones share them."""

    rule: Rule
    is_overdue: bool
    next_slot: datetime

    def slots(self, now: datetime) -> Iterator[datetime]:
        """Yield the slots from `now` on; an overdue one comes now."""
        if self.is_overdue:
            yield now
        yield self.next_slot
        with suppress(ScheduleError):  # there is no later one
            yield from slots_after(self.rule, self.next_slot)


def coming_slots(rule: Rule, next_slot: datetime, now: datetime, *, first: bool) -> Coming:
    """Return the slots from `next_slot` on. If several have passed, one of them is overdue.

    first: whether no slot of the flow was claimed before. Raises ScheduleError.
    """
    if rule.catch_up == "all":
        rule = replace(rule, catch_up="once")
    found = due(rule, next_slot, now, first=first)
    return Coming(rule, found.slot is not None, found.next_slot)


@dataclass(slots=True, eq=False)
class _Group:
    """Flows that share their slots, and the seconds that a run of each of them takes."""

    coming: Coming
    flows: list[PlannedFlow] = field(default_factory=list)
    seconds: float = 0.0
    slots: int = 0
    last_slot: datetime | None = None


class Forecast:
    """The slots from `begin` until `end`, which are counted until `counted_until`."""

    def __init__(self, begin: datetime, end: datetime, workers: int) -> None:
        self.begin, self.end, self.workers = begin, end, workers
        self.counted_until = end
        self.hours: dict[datetime, Hour] = {}
        self.collisions: dict[tuple[_Group, ...], Collision] = {}

    def add(self, flows: Iterable[tuple[PlannedFlow, Coming | None]]) -> None:
        """Count the slots of flows, and set the members of each flow."""
        groups: dict[Coming, _Group] = {}
        for flow, coming in flows:
            if coming:
                group = groups.setdefault(coming, _Group(coming))
                group.flows.append(flow)
                group.seconds += flow.usual_seconds
        self._count(groups.values())
        for group in groups.values():
            next_slots = [*islice(group.coming.slots(self.begin), NEXT_SLOTS)]
            for flow in group.flows:
                flow.slots = group.slots
                flow.last_slot = group.last_slot
                flow.next_slots = next_slots

    def _count(self, groups: Iterable[_Group]) -> None:
        """Count the slots of groups in the order of time, until the end or a limit."""
        numbered = [
            zip(group.coming.slots(self.begin), repeat(number), repeat(group))
            for number, group in enumerate(groups)
        ]
        counted = 0
        for moment, same in groupby(merge(*numbered), key=itemgetter(0)):
            if moment >= self.end:
                return
            due_now = tuple(group for _, _, group in same)
            counted += len(due_now)
            if counted > MAX_SLOTS:
                self.counted_until = moment
                return
            self._add_to_hour(moment, due_now)
            if sum(len(group.flows) for group in due_now) > self.workers:
                self._collide(moment, due_now)

    def _add_to_hour(self, moment: datetime, due_now: Sequence[_Group]) -> None:
        """Add the runs that begin at a moment."""
        begin = moment.replace(minute=0, second=0, microsecond=0)
        if begin not in self.hours:
            self.hours[begin] = Hour(begin=begin)
        hour = self.hours[begin]
        for group in due_now:
            group.slots += 1
            group.last_slot = moment
            hour.slots += len(group.flows)
            hour.busy_seconds += group.seconds

    def _collide(self, moment: datetime, due_now: tuple[_Group, ...]) -> None:
        """Add a collision, or count one of the same flows again."""
        if collision := self.collisions.get(due_now):
            collision.times += 1
            return
        names = sorted(flow.name for group in due_now for flow in group.flows)
        self.collisions[due_now] = Collision(
            first=moment, flow_count=len(names), flows=names[:MAX_NAMES]
        )
