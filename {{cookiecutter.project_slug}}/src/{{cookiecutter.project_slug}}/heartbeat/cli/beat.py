"""The command `heartbeat beat`."""

import click

from ..core import Heartbeat
from ..members import BeatMembers
from ..runs.beat import run_beat
from .application import command
from .output import json_option, print_json, print_table


@command
@json_option
def beat(heartbeat: Heartbeat, *, as_json: bool) -> None:
    """Run all flows that are due, in this process, and wait for them.

    With Celery, hand them over, and wait for them as long as the setting `wait` says. The exit code
    is 1 if a run failed.
    """
    settings = heartbeat.settings
    wait = None if settings.executor == "local" else settings.wait
    report = run_beat(heartbeat, "command line", wait)
    if report.note:
        click.echo(report.note, err=True)
    if as_json:
        print_json(BeatMembers.model_validate(report))
    else:
        print_table("beat", [report.counts()])
    if report.flows_failed:
        raise SystemExit(1)
