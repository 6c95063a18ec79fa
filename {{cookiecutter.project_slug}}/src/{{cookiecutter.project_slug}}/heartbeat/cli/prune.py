"""The command that removes old history at once."""

import click

from ..core import Heartbeat
from ..pruning import Walk
from ..pruning import prune as prune_step
from .application import command, json_option, show


@command
@json_option
def prune(heartbeat: Heartbeat, *, as_json: bool) -> None:
    """Remove the runs and beats that are older than heartbeat.keep_days.

    Each flow's last heartbeat.keep_runs successes and as many failures stay. Beats do the same, a
    few hundred rows each.
    """
    walk = Walk()
    while walk.more:
        walk = prune_step(heartbeat, walk, wait=True)
    if as_json:
        show("removed", [{"runs": walk.runs, "beats": walk.beats}], as_json=True)
    else:
        click.echo(f"removed {walk.runs} runs and {walk.beats} beats")
