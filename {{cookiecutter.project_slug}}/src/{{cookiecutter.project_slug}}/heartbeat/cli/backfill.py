"""The command that works through a span of the past, window by window."""

import sys
from datetime import UTC, datetime
from itertools import pairwise, takewhile

import click
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..errors import ActiveRunError, DataFlowError, InputError
from ..models import DataFlowRun, RunStatus, Trigger
from ..operations import ask_for_run, lock_flow, rule_of
from ..runs.claim import take_pending
from ..runs.execute import execute
from ..runs.run import ClaimedRun, Window
from ..schedules.between import read_zone
from ..schedules.rule import slots_after
from .application import command

# How often a run that is under way is asked whether it has ended, in seconds.
PAUSE = 1.0


@command
@click.argument("name")
@click.option("--from", "since", type=datetime.fromisoformat, required=True, help="In ISO 8601.")
@click.option("--to", "until", type=datetime.fromisoformat, required=True, help="In ISO 8601.")
def backfill(heartbeat: Heartbeat, name: str, since: datetime, until: datetime) -> None:
    """Run the flow NAME for each of its intervals in a span of the past, oldest first.

    Times without a zone are in the flow's. Its schedule stays as it is, and waits meanwhile. This
    stops with a window that fails; called again, it goes on with what has not succeeded.
    """
    rule = heartbeat.transact(lambda session: rule_of(heartbeat, lock_flow(session, name)))
    zone = read_zone(rule.timezone)
    start, end = (at.replace(tzinfo=at.tzinfo or zone).astimezone(UTC) for at in (since, until))
    if not start < end <= heartbeat.clock.now():
        raise InputError({"--to": ["must lie after --from, and not in the future"]})
    slots = takewhile(end.__gt__, slots_after(rule, start))
    windows, done = [Window(*span) for span in pairwise([start, *slots, end])], 0
    with click.progressbar(windows, label=name, file=sys.stderr) as progress:
        for window in progress:
            done += _backfill(heartbeat, name, window)
    click.echo(f"{name}: {done} windows run, {len(windows) - done} had succeeded before")


def _backfill(heartbeat: Heartbeat, name: str, window: Window) -> bool:
    """Run a window unless it has succeeded; return whether it was run.

    Waits while another run is under way. Raises DataFlowError when the window fails.
    """

    def claim(session: Session) -> ClaimedRun | None:
        flow = lock_flow(session, name)
        ours = {"data_flow_id": flow.id, "trigger": Trigger.BACKFILL.value}
        when = {"window_start": window.start, "window_end": window.end}
        succeeded = DataFlowRun.completed().filter_by(**ours, **when)
        if session.scalars(succeeded.limit(1)).first():
            return None
        ask_for_run(session, heartbeat, flow, window)
        return take_pending(session, heartbeat, [flow.id])[0]

    while True:
        try:
            run = heartbeat.transact(claim)
            break
        except ActiveRunError:
            heartbeat.clock.sleep(PAUSE)
    if run is None:
        return False
    if execute(heartbeat, run) is not RunStatus.SUCCESS:
        with heartbeat.session() as session:
            row = session.get_one(DataFlowRun, run.id)
        span = f"{window.start.isoformat()} to {window.end.isoformat()}"
        raise DataFlowError(f"{span} failed: {row.error_type}: {row.error_message}")
    return True
