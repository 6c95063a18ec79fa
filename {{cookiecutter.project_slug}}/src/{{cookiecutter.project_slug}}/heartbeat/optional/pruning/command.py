"""The command that removes old history at once."""

import click

from ...cli.application import command
from ...cli.output import json_option, print_json
from ...core import Heartbeat
from . import PruneProgress
from . import prune as prune_step


@command
@json_option
def prune(heartbeat: Heartbeat, *, as_json: bool) -> None:
    """Remove the runs and beats that are older than heartbeat.keep_days.

    Each flow's last heartbeat.keep_runs successes and as many failures stay. Beats do the same, a
    few hundred rows each.
    """
    progress = PruneProgress()
    while progress.more:
        progress = prune_step(heartbeat, progress, wait=True)
    if as_json:
        print_json({"runs": progress.runs, "beats": progress.beats})
    else:
        click.echo(f"removed {progress.runs} runs and {progress.beats} beats")
