"""What follows a failure: the next attempt at its slot, or a pause of its flow."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from ..definition import FlowDefinition
from ..models import DataFlow, DataFlowRun, Trigger
from ..run import ClaimedRun

# A run that kills its process each time is given up after this many attempts.
MOST_ATTEMPTS = 10
# The limit for the delay of a retry, in seconds.
LONGEST_DELAY = 3_600
# Enough to exceed LONGEST_DELAY whatever the delay is, and few enough to compute.
MAX_DOUBLINGS = 12
# The options of a row that has none recorded and whose handler is unknown here.
NO_OPTIONS = {"on_lost": "fail", "retries": 0, "retry_delay": 0, "pause_after": None}

# The columns of `FlowDefinition.failure_options`.
OPTIONS = (DataFlow.on_lost, DataFlow.retries, DataFlow.retry_delay, DataFlow.pause_after)
_READ = select(DataFlow.enabled, DataFlow.failures_in_a_row, *OPTIONS)


def follow_failure(
    session: Session,
    definition: FlowDefinition | None,
    run: ClaimedRun | DataFlowRun,
    now: datetime,
    *,
    lost: bool = False,
) -> None:
    """Make the next attempt at the slot of a run that failed, or pause its flow.

    To be called in the transaction that has recorded the failure, which holds the flow's row. That
    row has the options, so that they hold in a process without the handler. A run that was `lost`
    with its process goes by `on_lost` instead of `retries`, and at once.
    """
    if run.trigger == Trigger.BACKFILL:
        return
    flow = session.execute(_READ.where(DataFlow.id == run.data_flow_id)).one()
    options = _options(flow, definition)
    retries, doublings = options["retries"], min(run.attempt - 1, MAX_DOUBLINGS)
    delay = options["retry_delay"] * 2**doublings
    if lost:
        retries, delay = (MOST_ATTEMPTS - 1 if options["on_lost"] == "retry" else 0), 0
    due_again = run.scheduled_for is not None and run.attempt <= retries
    pause_after, failures = options["pause_after"], flow.failures_in_a_row
    if flow.enabled and pause_after and failures % pause_after == 0:
        reason = f"paused after {failures} failures in a row, the last of them run {run.id}"
        pause = update(DataFlow).where(DataFlow.id == run.data_flow_id)
        session.execute(pause.values(enabled=False, disabled_reason=reason, updated_at=now))
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


def _options(flow: Any, definition: FlowDefinition | None) -> Mapping[str, Any]:
    """Return the options of a flow's row; those of the code until they are recorded."""
    recorded = {column.key: getattr(flow, column.key) for column in OPTIONS}
    numbers = (recorded["retries"], recorded["retry_delay"], recorded["pause_after"] or 0)
    # SQLite keeps anything that is written by hand, and a failure is recorded all the same.
    if all(isinstance(number, int) and number >= 0 for number in numbers):
        return recorded
    return definition.failure_options() if definition else NO_OPTIONS
