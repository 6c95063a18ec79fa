"""The command `heartbeat backfill`."""

import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise, takewhile
from typing import Any

import click
from sqlalchemy.orm import Session

from ...cli.application import command
from ...cli.names import name_argument
from ...core import Heartbeat
from ...errors import DataFlowError, InputError, UnknownFlowError
from ...members import find_run
from ...models import DataFlow, DataFlowRun, RunStatus, Trigger
from ...models.data_flow import BACKFILL_HOLD
from ...printing import printable
from ...run import ClaimedRun, Window
from ...runs.claim import take_pending
from ...runs.execute import execute
from ...runs.release import remember_claims
from ...runs.request import active_run, ask_for_run, lock_flow, rule_of
from ...runs.unreadable import require_readable
from ...schedules.between import read_zone
from ...schedules.rule import Rule, slots_after
from ...settings import BEATS_MISSED

# The seconds between two checks whether another run has ended.
PAUSE = 1.0
TIME: dict[str, Any] = {"type": datetime.fromisoformat, "metavar": "TIME"}


@command
@name_argument
@click.option("--from", "since", required=True, help="The first moment.", **TIME)
@click.option("--to", "until", required=True, help="The moment after the last.", **TIME)
def backfill(heartbeat: Heartbeat, name: str, since: datetime, until: datetime) -> None:
    """Run the flow NAME for each of its intervals in a time span of the past, oldest first.

    Times are in ISO 8601; those without a zone are in the flow's. Its schedule does not change, and
    waits until the command ends. The command waits for an active run or a waiting retry. It stops
    when a window fails. If it is repeated, it skips windows that have succeeded.
    """
    rule = heartbeat.transact(lambda session: _rule(session, heartbeat, name))
    zone = read_zone(rule.timezone)
    start, end = (at.replace(tzinfo=at.tzinfo or zone).astimezone(UTC) for at in (since, until))
    if not start < end <= heartbeat.clock.now():
        raise InputError({"--to": ["must lie after --from, and not in the future"]})
    slots = takewhile(end.__gt__, slots_after(rule, start))
    windows, done = [Window(*span) for span in pairwise([start, *slots, end])], 0
    try:
        with click.progressbar(windows, label=name, file=sys.stderr) as progress:
            for window in progress:
                done += _backfill(heartbeat, name, window)
    finally:
        heartbeat.transact(lambda session: _resume_schedule(session, heartbeat, name))
    click.echo(f"{name}: {done} windows run, {len(windows) - done} had succeeded before")


def _rule(session: Session, heartbeat: Heartbeat, name: str) -> Rule:
    flow = lock_flow(session, heartbeat, name)
    require_readable(flow)
    return rule_of(heartbeat, flow)


def _backfill(heartbeat: Heartbeat, name: str, window: Window) -> bool:
    """Run a window unless it has succeeded; return whether it was run.

    Waits for another active run. Raises DataFlowError if the window fails, or if the other run
    makes no progress.
    """
    run = _claim(heartbeat, name, window)
    if run is None:
        return False
    with heartbeat.executor.working_here(run):
        status = execute(heartbeat, run)
    if status is not RunStatus.SUCCESS:
        span = f"{window.start.isoformat()} to {window.end.isoformat()}"
        raise DataFlowError(f"{span} failed: {find_run(heartbeat, run.id).error}")
    return True


def _claim(heartbeat: Heartbeat, name: str, window: Window) -> ClaimedRun | None:
    """Claim a run of the window as soon as no other run is active; None if it has succeeded.

    The flow's schedule waits from now on, so that no other runs come in between.
    """
    obstacle = ""
    with remember_claims(heartbeat) as claimed:

        def step(session: Session) -> str:
            flow = lock_flow(session, heartbeat, name)
            flow.backfill_until = heartbeat.clock.now() + BACKFILL_HOLD
            if _has_succeeded(session, flow, window):
                return ""
            if run := active_run(session, flow):
                return _obstacle(heartbeat, flow, run)
            requested = ask_for_run(session, heartbeat, flow, window)
            claimed.extend(take_pending(session, heartbeat, [requested]))
            return ""

        while found := heartbeat.transact(step):
            if found != obstacle:
                click.echo(f"\n{name}: waiting: {printable(found)}", err=True)
            obstacle = found
            heartbeat.clock.sleep(PAUSE)
    return claimed[0] if claimed else None


def _has_succeeded(session: Session, flow: DataFlow, window: Window) -> bool:
    succeeded = flow.successful_runs.filter_by(
        trigger=Trigger.BACKFILL.value, window_start=window.start, window_end=window.end
    )
    return session.scalars(succeeded.limit(1)).first() is not None


def _obstacle(heartbeat: Heartbeat, flow: DataFlow, run: DataFlowRun) -> str:
    """Describe the run that is waited for. Raises DataFlowError if it makes no progress."""
    require_readable(run)
    name, now = f"run {run.id} ({run.trigger}, attempt {run.attempt})", heartbeat.clock.now()
    patience = timedelta(seconds=BEATS_MISSED * heartbeat.settings.expected_every)
    if run.status == RunStatus.IN_PROGRESS:
        if run.lease_expires_at and run.lease_expires_at + patience < now:
            raise DataFlowError(
                f"{name} is in progress, but its lease has expired and no beat has reaped it: "
                "check that the scheduler calls, and repeat the command"
            )
        return f"{name} is in progress"
    if not (flow.enabled or run.trigger in {Trigger.MANUAL.value, Trigger.BACKFILL.value}):
        raise DataFlowError(
            f"{name} is pending, but the flow is disabled: `heartbeat resume {flow.name}`, and "
            "repeat the command"
        )
    due = max(run.not_before or run.created_at, run.created_at)
    if due + patience < now:
        raise DataFlowError(
            f"{name} has been due since {due:%Y-%m-%d %H:%M:%S} UTC, but no beat has claimed it: "
            "check that the scheduler calls, and repeat the command"
        )
    return f"{name} is pending, and due at {due:%Y-%m-%d %H:%M:%S} UTC"


def _resume_schedule(session: Session, heartbeat: Heartbeat, name: str) -> None:
    with suppress(UnknownFlowError):  # it may have been removed meanwhile
        lock_flow(session, heartbeat, name).backfill_until = None
