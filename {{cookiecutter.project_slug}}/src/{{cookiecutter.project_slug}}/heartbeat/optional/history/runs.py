"""The command that shows the history of runs, and the options of lists."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click

from ...cli.application import command
from ...cli.names import FLOW_NAME
from ...cli.output import cell, json_option, print_json, print_table, record
from ...cli.runs import run_line
from ...core import Heartbeat
from ...members import RunMembers, find_run
from ...models import RunStatus
from ...printing import printable
from .lists import list_runs

# As text: click would use the names of the members, in capitals.
STATUSES = [status.value for status in RunStatus]
# These are printed below the other members, on separate lines.
TEXTS = ("error_backtrace", "log")
TEXT_KEPT = "\n\t"
ID = click.IntRange(1, 10**18)

_Work = TypeVar("_Work", bound=Callable[..., Any])


def page_options(work: _Work) -> _Work:
    """Add the options of a list."""
    limit = click.option(
        "--limit", type=click.IntRange(1, 10**9), default=20, help="How many, newest first."
    )
    before = click.option(
        "--before", metavar="ID", type=ID, help="Only those before this one, for the next page."
    )
    return limit(before(work))


@command
@json_option
@click.argument("run_id", metavar="[ID]", type=ID, required=False)
@click.option("--flow", metavar="NAME", type=FLOW_NAME, help="Only the runs of this flow.")
@click.option("--status", type=click.Choice(STATUSES), help="Only the runs with this status.")
@page_options
def runs(heartbeat: Heartbeat, run_id: int | None, *, as_json: bool, **options: Any) -> None:
    """Show the history of runs, newest first, or the run ID in detail."""
    if run_id is not None:
        _show_run(find_run(heartbeat, run_id), as_json=as_json)
        return
    with heartbeat.session() as session:
        found = list_runs(session, **options)
    if as_json:
        print_json(found)
    else:
        print_table("runs", [run_line(run) for run in found])


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
