"""The lines that the engine logs about its beats, runs and flows.

Each has a sentence, and the values in it as attributes of the record: members of a JSON line.
"""

import logging
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any

from sqlalchemy import URL

from .db import is_unavailable
from .db.flow_session import HINT
from .errors import DatabaseNotReadyError
from .events import BeatEnded, Event, FlowDisabled, RunEnded
from .models import RunStatus
from .printing import printable
from .redaction import describe_error, error_of, error_text, short_error, without_password
from .repeats import RepeatLimit
from .settings import Settings

VERSION = files(__package__).joinpath("VERSION").read_text().strip()

log = logging.getLogger(__name__)


def log_event(event: Event) -> None:
    """Log one line about an event, if it is worth one."""
    if isinstance(event, RunEnded):
        _log_run(event)
    elif isinstance(event, BeatEnded):
        _log_beat(event)
    elif isinstance(event, FlowDisabled):
        message = "flow %s is disabled: %s: fix the cause, then `heartbeat resume %s`"
        name, reason = event.flow_name, short_error(event.reason)
        _log(logging.ERROR, message, name, reason, name, event="flow_disabled", flow=name)


def log_start(settings: Settings, url: URL, flows: int) -> None:
    """Log what this process serves, and from which database."""
    fields = {
        "version": VERSION,
        "path": settings.path,
        "flows": flows,
        "workers": settings.workers,
        "executor": settings.executor,
        "database": printable(without_password(url)),
    }
    message = "heartbeat %s serves %s: %d flows, %d workers, executor %s, database %s"
    _log(logging.INFO, message, *fields.values(), event="start", **fields)


def log_broken_beat(error: BaseException, secrets: Sequence[str], repeats: RepeatLimit) -> None:
    """Log the error of a beat that nobody waits for: one line if the database is the cause."""
    if is_unavailable(error) or isinstance(error, DatabaseNotReadyError):
        cause = short_error(error_text(error, secrets))
        repeats.log(log, logging.ERROR, "a beat broke off: %s", cause)
        return
    log.error("a beat broke off\n%s", describe_error(error, secrets)["error_backtrace"])


def _log_beat(ended: BeatEnded) -> None:
    """Log what a beat found and did. Its error is logged by its caller."""
    if ended.error is not None or not log.isEnabledFor(logging.INFO):
        return
    source = ended.started.source
    counts = {**ended.report.counts(), "goes_on": ended.report.goes_on}
    duration = counts["duration"]
    if ended.id is None:
        message = (
            "a beat from %s left the work to other beats, which wait for the database (%.3f s)"
        )
        arguments: tuple[object, ...] = (source, duration)
    else:
        done = _work_of(counts) or "nothing due"
        message = "beat %d from %s: %s (%.3f s)"
        arguments = (ended.id, source, done, duration)
    fields = {"event": "beat", "source": source, "beat_id": ended.id, **counts}
    _log(logging.INFO, message, *arguments, **fields)


def _work_of(counts: dict[str, Any]) -> str:
    """Return the counts of a beat that are not 0, in words."""
    words = {
        "flows_due": "due",
        "flows_triggered": "claimed",
        "flows_succeeded": "succeeded",
        "flows_failed": "failed",
        "flows_in_progress": "in progress",
        "runs_reaped": "reaped",
    }
    return ", ".join(f"{counts[name]} {word}" for name, word in words.items() if counts[name])


def _log_run(ended: RunEnded) -> None:
    """Log the end of a run, and what follows of it."""
    level = _level_of(ended)
    if not log.isEnabledFor(level):
        return
    fields = {
        "event": "run",
        "flow": ended.flow_name,
        "run_id": ended.id,
        "status": ended.status.value,
        "trigger": ended.trigger,
        "slot": _iso(ended.scheduled_for),
        "attempt": ended.attempt,
        "duration": None if ended.duration is None else round(ended.duration, 6),
    }
    attempt = f", attempt {ended.attempt}" if ended.attempt > 1 else ""
    seconds = "" if ended.duration is None else f" in {ended.duration:.3f} s"
    if ended.status == RunStatus.SUCCESS:
        message = "%s succeeded%s: run %d%s"
        _log(level, message, ended.flow_name, seconds, ended.id, attempt, **fields)
        return
    # The advice is for the author of the flow, who reads the run.
    error = short_error((ended.error_message or "").replace(HINT, ""))
    retry_at = _iso(ended.retry_at)
    fields |= {"error_type": ended.error_type, "error": error, "retry_at": retry_at}
    cause = error_of(ended.error_type, error.rstrip("."))
    follows = f"retried at {retry_at}" if retry_at else f"`heartbeat runs {ended.id}` shows more"
    message = "%s failed%s: run %d%s: %s; %s"
    _log(level, message, ended.flow_name, seconds, ended.id, attempt, cause, follows, **fields)


def _level_of(ended: RunEnded) -> int:
    """Return the level of a run's line: an error is a failure that nothing follows."""
    if ended.status == RunStatus.SUCCESS:
        return logging.INFO
    is_expected = ended.retry_at is not None or ended.error_type == "Cancelled"
    return logging.WARNING if is_expected else logging.ERROR


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="seconds")


def _log(level: int, message: str, *arguments: object, **fields: object) -> None:
    """Log a line with attributes. A handler that raises does not stop the work that is logged."""
    known = {name: value for name, value in fields.items() if value is not None}
    try:
        log.log(level, message, *arguments, extra=known)
    except Exception:  # noqa: BLE001 - any handler of the application
        sys.stderr.write(f"{message % arguments}\n")
