"""The JSON members of `heartbeat plan`. Times are in UTC, durations in seconds."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel

Kind = Literal[
    "not registered",
    "changed by an operator",
    "changed in code",
    "other handler",
    "unknown handler",
    "disabled",
    "invalid schedule",
    "unreadable",
]


class Difference(BaseModel):
    """How a flow differs from its declaration, and why."""

    kind: Kind
    why: str


class PlannedFlow(BaseModel):
    """A flow and its forecast.

    `declared` is None if no code declares a flow of this name, and `stored` if it has no row, or an
    unreadable one. `slots` is their number until the plan's `counted_until`, and `last_slot` is the
    last of them. `usual_seconds` is the mean duration of its successes, 1 without any.
    """

    name: str
    handler: str
    declared: str | None = None
    stored: str | None = None
    differences: list[Difference] = []
    slots: int = 0
    next_slots: list[datetime] = []
    last_slot: datetime | None = None
    usual_seconds: float = 1.0

    def differs(self, kind: Kind, why: str) -> None:
        """Add a difference."""
        self.differences.append(Difference(kind=kind, why=why))


class Hour(BaseModel):
    """An hour of UTC: the number of runs that begin in it, and the seconds that they take."""

    begin: datetime
    slots: int = 0
    busy_seconds: float = 0.0


class Collision(BaseModel):
    """More flows than workers that are due at once, `times` times. `flows` has the first names."""

    first: datetime
    times: int = 1
    flow_count: int
    flows: list[str]


class Plan(BaseModel):
    """Declared and stored schedules, and the forecast from `begin` until `end`.

    Slots are counted until `counted_until`. `busiest_hours` and `collisions` are the worst ones, of
    `collision_count` collisions and `overloaded_hours` hours whose runs take longer than an hour on
    all workers.
    """

    begin: datetime
    end: datetime
    counted_until: datetime
    workers: int
    difference_count: int
    flows: list[PlannedFlow]
    overloaded_hours: int
    busiest_hours: list[Hour]
    collision_count: int
    collisions: list[Collision]
    assumptions: list[str]
