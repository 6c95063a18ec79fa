"""The source of the current time, which tests replace.

Waits for threads, locks and connections do not use it.
"""

import time
from datetime import UTC, datetime


class Clock:
    """The machine's clock. A function reads it once and passes the value on."""

    def now(self) -> datetime:
        """Return the wall-clock time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return the monotonic time in seconds, for durations."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        time.sleep(seconds)
