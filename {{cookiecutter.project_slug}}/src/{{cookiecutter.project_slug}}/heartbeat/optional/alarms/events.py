"""The events that subscribers receive, each after the commit of what it reports."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from ...events import RunEnded


@dataclass(frozen=True, slots=True)
class FlowSucceeded:
    """A run of a flow has succeeded."""

    flow: str
    run: RunEnded


@dataclass(frozen=True, slots=True)
class FlowFailed:
    """A run of a flow has failed. `run.retry_at` is the time of its next attempt, if any."""

    flow: str
    run: RunEnded


@dataclass(frozen=True, slots=True)
class FlowSlow:
    """A successful run took more than three times as long as usual.

    usual: the median of the durations of the last 30 successes before it, in seconds.
    """

    flow: str
    run: RunEnded
    usual: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowAlarm:
    """A flow's state has changed, or a state that is an alarm lasts. The base of the classes below.

    since: the time of the alarm's first message.
    text: what has happened, in one line.
    run_id, error_type, error_message: of the last failed run, if the flow is failing.
    is_reminder: whether the state lasts since an earlier message.
    """

    state: ClassVar[str]
    flow: str
    since: datetime
    text: str
    run_id: int | None = None
    error_type: str | None = None
    error_message: str | None = None
    is_reminder: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowFailing(FlowAlarm):
    """A flow has failed as many times in a row as its option `alert_after` says."""

    state = "failing"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowStale(FlowAlarm):
    """A flow has had no success for longer than its option `expect_success_within` allows."""

    state = "stale"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowPaused(FlowAlarm):
    """The engine has disabled a flow, because of failures in a row or an unreadable row."""

    state = "paused"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRecovered(FlowAlarm):
    """A flow has succeeded again after an alarm."""

    state = "recovered"


KINDS = (FlowSucceeded, FlowFailed, FlowSlow, FlowFailing, FlowStale, FlowPaused, FlowRecovered)
