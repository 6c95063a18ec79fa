"""The commands that run a flow and show the history of runs."""

from datetime import datetime
from typing import Any

import click
from sqlalchemy import select

from ...cli.application import command
from ...cli.names import FLOW_NAME, name_argument
from ...cli.output import cell, json_option, print_json, print_table, record
from ...core import Heartbeat
from ...errors import UnknownFlowError
from ...members import RUNS, RunMembers, find_run, run_members
from ...models import DataFlow, DataFlowRun, RunStatus
from ...printing import printable
from ...runs.execute import execute
from ...runs.request import claim_now

# As text: click would use the names of the members, in capitals.
STATUSES = [status.value for status in RunStatus]
# These are printed below the other members, on separate lines.
TEXTS = ("error_backtrace", "log")
TEXT_KEPT = "\n\t"


@command
@json_option
@click.argument("run_id", metavar="[ID]", type=click.IntRange(1, 10**18), required=False)
@click.option("--flow", "name", metavar="NAME", type=FLOW_NAME, help="Only the runs of this flow.")
@click.option("--status", type=click.Choice(STATUSES), help="Only the runs with this status.")
@click.option("--limit", type=click.IntRange(1, 10**9), default=20, help="How many, newest first.")
def runs(
    heartbeat: Heartbeat,
    run_id: int | None,
    name: str | None,
    status: str | None,
    limit: int,
    *,
    as_json: bool,
) -> None:
    """Show the history of runs, newest first, or the run ID in detail."""
    if run_id is not None:
        _show_run(find_run(heartbeat, run_id), as_json=as_json)
        return
    statement = RUNS.order_by(DataFlowRun.id.desc()).limit(limit)
    if status:
        statement = statement.where(DataFlowRun.status == status)
    with heartbeat.session() as session:
        if name is not None:
            if not session.scalars(select(DataFlow.id).where(DataFlow.name == name)).all():
                raise UnknownFlowError(name)
            statement = statement.where(DataFlow.name == name)
        found = [run_members(row) for row in session.execute(statement)]
    if as_json:
        print_json(found)
    else:
        print_table("runs", [_as_line(run) for run in found])


@command
@json_option
@name_argument
def run(heartbeat: Heartbeat, name: str, *, as_json: bool) -> None:
    """Run the flow NAME now, in this process. Its schedule does not change.

    The exit code is 1 if the run failed.
    """
    claimed = claim_now(heartbeat, name)
    with heartbeat.executor.working_here(claimed):
        status = execute(heartbeat, claimed)
    ended = find_run(heartbeat, claimed.id)
    if as_json:
        print_json(ended)
    else:
        print_table("run", [_as_line(ended)])
    if status is not RunStatus.SUCCESS:
        raise SystemExit(1)


def _show_run(run: RunMembers, *, as_json: bool) -> None:
    if as_json:
        print_json(run)
        return
    members = run.model_dump(exclude={*TEXTS, "error"})
    times = {name: time for name, time in members.items() if isinstance(time, datetime)}
    click.echo(record(members | {name: f"{cell(time)} UTC" for name, time in times.items()}))
    for name in TEXTS:
        if text := getattr(run, name):
            click.echo(f"\n{name}\n{printable(text.rstrip(), kept=TEXT_KEPT)}")


def _as_line(run: RunMembers) -> dict[str, Any]:
    return {
        "flow": run.flow,
        "run": run.id,
        "status": run.status,
        "trigger": run.trigger,
        "slot (UTC)": run.scheduled_for,
        "started (UTC)": run.started_at,
        "seconds": run.duration,
        "result or error": run.error or run.result,
    }
