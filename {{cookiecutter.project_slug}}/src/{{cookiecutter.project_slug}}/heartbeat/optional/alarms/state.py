"""The state of a flow's alarm, which is kept in its row: the rules, and the texts."""

from datetime import datetime, timedelta
from typing import Any

from ...definition import FlowDefinition
from ...durations import format_every
from ...models import DataFlow
from ...printing import printable
from ...redaction import error_of, shorten
from .events import FlowAlarm, FlowFailing, FlowPaused, FlowRecovered, FlowStale

# How often a flow in alarm is checked, in case the process that recorded its success has died.
CHECK_EVERY = timedelta(seconds=60)
LONGEST_TEXT = 500
KINDS: dict[str | None, type[FlowAlarm]] = {
    None: FlowRecovered,
    **{kind.state: kind for kind in (FlowFailing, FlowStale, FlowPaused)},
}


def stale_at(flow: DataFlow, within: int | None) -> datetime | None:
    """Return when a flow becomes stale without a success; None without the option."""
    since = flow.created_at, flow.enabled_at, flow.last_success_at
    return max(filter(None, since)) + timedelta(seconds=within) if within else None


def state_at(
    flow: DataFlow, definition: FlowDefinition, now: datetime, *, is_retried: bool
) -> str | None:
    """Return the state of a flow's alarm; None if all is well, or nothing is known yet.

    is_retried: whether a retry follows the last failure. An alarm does not begin meanwhile.
    """
    before, since = flow.alarm_state, flow.alarm_since
    if not flow.enabled or (before == FlowPaused.state and not _has_run_again(flow)):
        return before
    begins_later = is_retried and before != FlowFailing.state
    if flow.failures_in_a_row >= definition.alert_after and not begins_later:
        return FlowFailing.state
    limit = stale_at(flow, definition.expect_success_within)
    if limit and limit <= now:
        return FlowStale.state
    success = flow.last_success_at
    has_succeeded = success is not None and (since is None or success >= since)
    if has_succeeded or (before == FlowFailing.state and not flow.failures_in_a_row):
        return None
    return before


def _has_run_again(flow: DataFlow) -> bool:
    """Return whether a run has ended since the flow was enabled."""
    ended_at, enabled_at = flow.last_run_at, flow.enabled_at
    return ended_at is not None and (enabled_at is None or ended_at > enabled_at)


def advance(
    flow: DataFlow, state: str | None, definition: FlowDefinition | None, now: datetime
) -> dict[str, Any] | None:
    """Change a flow's row to a state of its alarm; return members of the message that is due."""
    message: dict[str, Any] | None = None
    watched = definition if flow.enabled else None
    limit = stale_at(flow, watched.expect_success_within) if watched else None
    is_new_pause = state == FlowPaused.state and flow.alarmed_at is None
    if state != flow.alarm_state or is_new_pause:
        message = {"since": now if state else flow.alarm_since or now, "before": flow.alarm_state}
        flow.alarm_state = state
        flow.alarm_since = flow.alarmed_at = now if state else None
    elif watched and _lasts(state, limit, now):
        every = timedelta(seconds=watched.remind_every)
        if flow.alarmed_at is None or flow.alarmed_at + every <= now:
            flow.alarmed_at = now
            message = {"since": flow.alarm_since or now, "is_reminder": True}
    flow.alarm_check_at = now + CHECK_EVERY if state and watched else limit
    return message


def _lasts(state: str | None, limit: datetime | None, now: datetime) -> bool:
    """Return whether what is wrong with an enabled flow still is. `limit`: of `stale_at`."""
    if state == FlowStale.state:  # until a success, also after a pause or another option
        return limit is not None and limit <= now
    return state == FlowFailing.state


def alarm_of(
    flow: DataFlow,
    message: dict[str, Any],
    definition: FlowDefinition | None,
    *,
    failed: Any,
) -> FlowAlarm:
    """Return the event for a message. failed: the last failed run of a flow that is failing."""
    before, error = message.pop("before", None), dict[str, Any]()
    kind = KINDS[flow.alarm_state]
    still = "still " if message.get("is_reminder") else ""
    if kind is FlowFailing:
        text = f"is {still}failing: {flow.failures_in_a_row} failures in a row"
        if failed:
            error = failed._asdict()
            cause = error_of(failed.error_type, failed.error_message)
            text += f", the last one in run {failed.run_id}: {cause}"
    elif kind is FlowStale:
        last = f"since {_shown(flow.last_success_at)}" if flow.last_success_at else "yet"
        within = format_every(definition.expect_success_within or 0) if definition else ""
        text = f"is {still}stale: no success {last}, but one is expected within {within}"
    elif kind is FlowPaused:
        text = f"is paused: {flow.disabled_reason}"
    else:
        text = f"has recovered: it was {before} since {_shown(message['since'])}"
    line = printable(" ".join(f"{flow.name} {text}".split()))
    line = " ".join(shorten(line, LONGEST_TEXT).split())
    return kind(flow=str(flow.name), text=line, **message, **error)


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
