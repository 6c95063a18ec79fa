"""After a failure: a retry of the slot, or a pause of the flow."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import false, select, update
from sqlalchemy.orm import Session

from ..definition import FlowDefinition
from ..events import FlowDisabled, after_commit
from ..models import DataFlow, DataFlowRun, Trigger, table_of
from ..models.data_flow import PAUSED
from ..run import ClaimedRun

# The limit for attempts at a slot whose runs are lost, since a run may kill its process each time.
MAX_ATTEMPTS = 10
# The limit for the delay of a retry, in seconds.
LONGEST_DELAY = 3_600
# A delay of a second exceeds LONGEST_DELAY after this many doublings.
MAX_DOUBLINGS = 12
# For a row without recorded options whose handler this process does not know.
NO_OPTIONS = {"on_lost": "fail", "retries": 0, "retry_delay": 0, "pause_after": None}

# The columns of `FlowDefinition.failure_options`.
OPTIONS = (DataFlow.on_lost, DataFlow.retries, DataFlow.retry_delay, DataFlow.pause_after)
_READ = select(DataFlow.enabled, DataFlow.failures_in_a_row, *OPTIONS)
_FLOW = table_of(DataFlow)


def follow_failure(
    session: Session,
    definition: FlowDefinition | None,
    run: ClaimedRun | DataFlowRun,
    now: datetime,
    *,
    lost: bool = False,
) -> datetime | None:
    """Insert a retry for the slot of a failed run, or pause its flow; return when it is retried.

    Called in the transaction that has recorded the failure and has locked the flow's row. The
    options are read from that row, since this process may not know the handler. For a run that was
    `lost` with its process, `on_lost` decides instead of `retries`, and the retry has no delay.
    """
    if run.trigger == Trigger.BACKFILL:
        return None
    flow = session.execute(_READ.where(DataFlow.id == run.data_flow_id)).one()
    options = _options(flow, definition)
    if lost:
        retries = MAX_ATTEMPTS - 1 if options["on_lost"] == "retry" else 0
        delay = 0
    else:
        retries = options["retries"]
        delay = options["retry_delay"] * 2 ** min(run.attempt - 1, MAX_DOUBLINGS)
    due_again = run.scheduled_for is not None and run.attempt <= retries
    pause_after, failures = options["pause_after"], flow.failures_in_a_row
    if flow.enabled and pause_after and failures % pause_after == 0:
        reason = f"paused after {failures} failures in a row, the last of them run {run.id}"
        pause(session, run.data_flow_id, reason, now)
    elif due_again and flow.enabled:
        attempt = DataFlowRun(
            data_flow_id=run.data_flow_id,
            trigger=Trigger.RETRY.value,
            scheduled_for=run.scheduled_for,
            attempt=run.attempt + 1,
            missed_slots=run.missed_slots,
            not_before=now + timedelta(seconds=min(delay, LONGEST_DELAY)) if delay else None,
            window_start=run.window_start,
            window_end=run.window_end,
            created_at=now,
            updated_at=now,
        )
        session.add(attempt)
        return attempt.not_before or now
    return None


def pause(session: Session, flow_id: int, reason: str, now: datetime) -> None:
    """Disable a flow whose row is locked; the row keeps the alarm until a process has sent it."""
    flow = update(_FLOW).where(_FLOW.c.id == flow_id, _FLOW.c.enabled != false())
    values = {"enabled": False, "disabled_reason": reason, "updated_at": now}
    values |= {"alarm_state": PAUSED, "alarmed_at": None, "alarm_check_at": now}
    if session.connection().execute(flow.values(values)).rowcount:
        name = session.scalars(select(_FLOW.c.name).where(_FLOW.c.id == flow_id)).one()
        after_commit(session, FlowDisabled(flow_id, name, reason))


def _options(flow: Any, definition: FlowDefinition | None) -> Mapping[str, Any]:
    """Return the options of a flow's row; the declared ones until they are recorded."""
    recorded = {column.key: getattr(flow, column.key) for column in OPTIONS}
    numbers = (recorded["retries"], recorded["retry_delay"], recorded["pause_after"] or 0)
    # SQLite may hold any value that was written by hand.
    if all(isinstance(number, int) and number >= 0 for number in numbers):
        return recorded
    return definition.failure_options() if definition else NO_OPTIONS
