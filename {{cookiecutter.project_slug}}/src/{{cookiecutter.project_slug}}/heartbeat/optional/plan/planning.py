"""Makes the plan: the comparison and the forecast."""

from datetime import timedelta

from ...core import Heartbeat
from .compare import compare
from .forecast import MAX_SLOTS, Forecast
from .members import Plan

# How many of the busiest hours, and of the collisions, are shown.
MAX_SHOWN = 10
HOUR = 3_600


def make_plan(heartbeat: Heartbeat, days: int) -> Plan:
    """Compare all flows, and forecast that many days. Nothing is written."""
    now, workers = heartbeat.clock.now(), heartbeat.settings.workers
    with heartbeat.session() as session:
        found = compare(heartbeat, session, now)
    forecast = Forecast(now, now + timedelta(days=days), workers)
    forecast.add(found)
    hours = sorted(forecast.hours.values(), key=lambda hour: hour.busy_seconds, reverse=True)
    collisions = sorted(forecast.collisions.values(), key=lambda one: one.flow_count, reverse=True)
    return Plan(
        begin=now,
        end=forecast.end,
        counted_until=forecast.counted_until,
        workers=workers,
        difference_count=sum(len(flow.differences) for flow, _ in found),
        flows=[flow for flow, _ in found],
        overloaded_hours=sum(hour.busy_seconds > workers * HOUR for hour in hours),
        busiest_hours=hours[:MAX_SHOWN],
        collision_count=len(collisions),
        collisions=collisions[:MAX_SHOWN],
        assumptions=_assumptions(forecast),
    )


def _assumptions(forecast: Forecast) -> list[str]:
    """Return what the forecast assumes, in sentences."""
    assumptions = [
        "One process runs all flows, and a beat comes at each slot.",
        "A run takes the mean of its flow's successes, or 1 second without any.",
        "It counts for the hour in which it begins. An overdue flow runs once, now.",
        "All runs succeed, and the conditions of `after` and `when` hold.",
    ]
    if forecast.counted_until < forecast.end:
        assumptions.append(
            f"Slots are counted until {forecast.counted_until:%Y-%m-%d %H:%M:%S} UTC: the limit "
            f"is {MAX_SLOTS} slots."
        )
    return assumptions
