"""Beats in a fixed rhythm, whatever the database or a beat does."""

import logging
import threading
from collections.abc import Callable

from sqlalchemy.exc import DBAPIError

from ...core import Heartbeat
from ...db import is_unavailable, reason
from ...durations import format_every
from ...errors import DatabaseNotReadyError
from ...events import BeatReport
from ...migrations import require_current
from ...redaction import describe_error, redact
from ...runs.beat import run_beat

log = logging.getLogger(__name__)

Show = Callable[[BeatReport], None]


class Scheduler:
    """Beats at the points of a grid that begins with the first beat.

    A point that passes while a beat works is served as soon as that beat has ended. Of several such
    points, the last one is served. The grid does not move.
    """

    def __init__(
        self, heartbeat: Heartbeat, source: str, every: int, stop_requested: threading.Event
    ) -> None:
        """`every`: the interval in seconds. `source`: what the beats are recorded with."""
        self._heartbeat, self._source = heartbeat, source
        self._every, self._stop_requested = every, stop_requested
        # What kept the last beat from working; empty if it worked.
        self._problem = ""

    def work(self, show: Show) -> None:
        """Beat until a stop is requested. `show` prints the report of each beat."""
        monotonic = self._heartbeat.clock.monotonic
        began, point = monotonic(), 0
        try:
            while not self._stop_requested.wait(max(0, began + point * self._every - monotonic())):
                self._beat(show)
                point = max(point + 1, int((monotonic() - began) // self._every))
        finally:
            self._stop_requested.set()  # a process that no longer beats ends

    def _beat(self, show: Show) -> None:
        """Run a beat, and report it. What keeps it from working is logged once."""
        heartbeat = self._heartbeat
        try:
            # First, so that a database that is away is always reported in the same words.
            require_current(heartbeat.engine)
            wait = min(heartbeat.settings.wait, self._every)
            report = run_beat(heartbeat, self._source, wait)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the next beat may work
            self._note(error)
            return
        if self._problem:
            log.info("beats work again")
            self._problem = ""
        try:
            show(report)
        except BrokenPipeError:  # the program that reads the lines has ended
            self._stop_requested.set()
        except OSError as error:  # a full disk, for example
            log.warning("the line of a beat cannot be printed: %s", error)

    def _note(self, error: BaseException) -> None:
        """Log an error, unless the beat before had the same one."""
        secrets = self._heartbeat.secrets()
        if isinstance(error, DatabaseNotReadyError):
            problem = redact(str(error), secrets)
        elif isinstance(error, DBAPIError) and is_unavailable(error):
            problem = redact(f"the database failed ({reason(error)})", secrets)
        else:
            problem = "\n" + describe_error(error, secrets)["error_backtrace"]
        if problem != self._problem and not self._stop_requested.is_set():
            every = format_every(self._every)
            log.error("no beat, retrying every %s: %s", every, problem)
        self._problem = problem
