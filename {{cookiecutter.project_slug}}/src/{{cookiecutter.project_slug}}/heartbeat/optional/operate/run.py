"""The command that runs a flow now."""

from ...cli.application import command
from ...cli.names import name_argument
from ...cli.output import json_option, print_json, print_table
from ...cli.runs import run_line
from ...core import Heartbeat
from ...members import find_run
from ...models import RunStatus
from ...runs.execute import execute
from ...runs.request import claim_now


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
        print_table("run", [run_line(ended)])
    if status is not RunStatus.SUCCESS:
        raise SystemExit(1)
