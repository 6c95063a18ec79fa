"""Applications with subscribers of the events about flows."""

from collections.abc import Callable
from typing import Any

from webtest import TestApp

from data_flows.heartbeat import Run

from ..conftest import FakeClock, heartbeat_of


def finish(app: TestApp) -> None:
    """Wait until all events of an application are handled, and all messages sent."""
    for hook in heartbeat_of(app).at_exit:
        while hook() is False:
            pass


class Switch:
    """A flow that fails while it is broken."""

    def __init__(self) -> None:
        self.is_broken = True

    def orders(self, _run: Run) -> None:
        """Fail, or do nothing."""
        if self.is_broken:
            message = "no such bird"
            raise LookupError(message)


class Listener:
    """An application, and the events that its subscribers have received."""

    def __init__(self, post: Callable[..., Any], clock: FakeClock) -> None:
        self.post, self.clock = post, clock
        self.app: TestApp
        self.received: list[Any] = []

    def beat(self, times: int = 1, *, every: float = 300) -> list[Any]:
        """Beat, each time with a pause before it; return all events when they are handled."""
        for _ in range(times):
            self.clock.advance(every)
            self.post(self.app)
            finish(self.app)
        return self.received

    def states(self) -> list[str]:
        """Return the states that the alarms have reported, with a mark for reminders."""
        return [alarm.state + ("!" if alarm.is_reminder else "") for alarm in self.received]
