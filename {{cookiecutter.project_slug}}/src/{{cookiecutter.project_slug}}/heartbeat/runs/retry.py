"""What follows a failure: the next attempt at its slot, or a pause of its flow."""

from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from ..models import DataFlow, DataFlowRun, Trigger
from ..registry import FlowDefinition
from .run import ClaimedRun

# A run that takes its process with it each time is given up after so many attempts.
MOST_ATTEMPTS = 10
# What the delay of a next attempt doubles up to, in seconds.
LONGEST_DELAY = 3_600


def follow_failure(
    session: Session,
    definition: FlowDefinition | None,
    run: ClaimedRun | DataFlowRun,
    now: datetime,
    *,
    lost: bool = False,
) -> None:
    """Make the next attempt at the slot of a run that failed, or pause its flow, as it declares.

    To be called in the transaction that has recorded the failure, which holds the flow's row. A
    run that was `lost` with its process goes by `on_lost` instead of `retries`, and at once.
    """
    if definition is None or run.trigger == Trigger.BACKFILL:
        return
    retries, delay = definition.retries, definition.retry_delay * 2 ** (run.attempt - 1)
    if lost:
        retries, delay = (MOST_ATTEMPTS - 1) * (definition.on_lost == "retry"), 0
    due_again = run.scheduled_for is not None and run.attempt <= retries
    if not (due_again or definition.pause_after):
        return
    columns = DataFlow.enabled, DataFlow.failures_in_a_row
    flow = session.execute(select(*columns).where(DataFlow.id == run.data_flow_id)).one()
    failures = flow.failures_in_a_row
    if flow.enabled and definition.pause_after and failures % definition.pause_after == 0:
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
