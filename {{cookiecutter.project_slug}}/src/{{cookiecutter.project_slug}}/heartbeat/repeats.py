"""Limits log lines that would be repeated many times, such as those of a database that is away."""

import logging
import threading
import time
from collections.abc import Hashable

# Of equal lines, one is logged in this many seconds.
SECONDS = 60.0
# The limit for the lines that are remembered, which callers from many addresses may cause.
REMEMBERED = 1_000


class RepeatLimit:
    """Logs the first of several equal lines at once, and one in a minute of those that follow."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        # By line: when it was logged last, and how many were left out since.
        self._lines: dict[Hashable, tuple[float, int]] = {}

    def log(
        self, log: logging.Logger, level: int, message: str, *args: object, key: Hashable = None
    ) -> None:
        """Log a line, unless an equal one was logged within the last minute.

        key: what makes lines equal, instead of their text.
        """
        left_out = self._count(hash((message, args) if key is None else (message, key)))
        if left_out == 0:
            log.log(level, message, *args, stacklevel=2)
        elif left_out is not None:
            message = f"{message} (%d more such lines were left out)"
            log.log(level, message, *args, left_out, stacklevel=2)

    def _count(self, line: int) -> int | None:
        """Count a line; return how many were left out before it, or None if it is left out."""
        now = time.monotonic()
        with self._changing:
            logged_at, left_out = self._lines.get(line, (now - SECONDS, 0))
            if now - logged_at < SECONDS:
                self._lines[line] = logged_at, left_out + 1
                return None
            if len(self._lines) >= REMEMBERED:
                self._lines.clear()
            self._lines[line] = now, 0
            return left_out
