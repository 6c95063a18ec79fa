"""Optional: events about flows, and the options of flows for alarms.

Subscribe with `config.add_subscriber(function, FlowFailed)` or `@subscriber`. The subscribers are
called on a thread of their own. Where there are none, nothing is watched.
"""

from pyramid.config import Configurator
from pyramid.events import ApplicationCreated

from .events import (
    FlowAlarm,
    FlowFailed,
    FlowFailing,
    FlowPaused,
    FlowRecovered,
    FlowSlow,
    FlowStale,
    FlowSucceeded,
)
from .watch import Watch

__all__ = [
    "FlowAlarm",
    "FlowFailed",
    "FlowFailing",
    "FlowPaused",
    "FlowRecovered",
    "FlowSlow",
    "FlowStale",
    "FlowSucceeded",
    "includeme",
]


def includeme(config: Configurator) -> None:
    """Add the options, and watch the flows for the subscribers of the application."""
    heartbeat = config.registry["heartbeat"]
    heartbeat.alarms = watch = Watch(heartbeat, config.registry)
    # When all subscribers are known.
    config.add_subscriber(lambda _event: watch.start(), ApplicationCreated)
