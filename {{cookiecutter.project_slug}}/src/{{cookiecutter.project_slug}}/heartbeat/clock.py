"""The time of beats, flows and runs: tests replace it.

Waits for threads, locks and connections go by the machine itself.
"""

import time
from datetime import UTC, datetime


class Clock:
    """The machine's clock. A function reads it once and passes the value on."""

    def now(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that never go back, for durations."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        time.sleep(seconds)
