"""Commands that change flows, and the command `heartbeat why`."""

import functools
from collections.abc import Callable
from typing import Any

import click

from ...cli.application import command
from ...cli.names import name_argument
from ...cli.output import json_option, print_json, print_table
from ...cli.values import values_option
from ...core import Heartbeat
from ...errors import ScheduleError
from ...printing import printable
from ...schedules.between import read_zone
from . import operations
from .flows import schedule_of
from .members import FlowMembers
from .why import describe


def flow_command(work: Callable[..., tuple[FlowMembers, str]]) -> click.Command:
    """Turn `work` into a command for the flow NAME. It returns the flow, and a message.

    The command prints the message, or with --json the members of the flow.
    """

    @command
    @json_option
    @name_argument
    @functools.wraps(work)
    def called(heartbeat: Heartbeat, *, as_json: bool, **options: Any) -> None:
        flow, done = work(heartbeat, **options)
        if as_json:
            print_json(flow)
        else:
            click.echo(printable(done, kept="\n"))

    return called


def flow_options(work: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for a flow's schedule and configuration."""
    every = click.option("--every", metavar="INTERVAL", help='How often, such as "10m".')
    cron = click.option("--cron", metavar="EXPRESSION", help='When instead, such as "0 3 * * *".')
    zone = click.option(
        "--timezone", metavar="ZONE", help='The zone of these times, such as "Europe/Berlin".'
    )
    return every(cron(zone(values_option(work))))


def _given(**options: object) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@flow_command
@click.option(
    "--handler", metavar="NAME", required=True, help="The flow in the code that it calls."
)
@flow_options
def add(
    heartbeat: Heartbeat, name: str, values: dict[str, Any], **options: str | None
) -> tuple[FlowMembers, str]:
    """Add the flow NAME: another flow of a handler, with its own configuration."""
    given = _given(**options, configuration=values or None)
    return operations.add(heartbeat, {"name": name, **given}), f"added {name}"


@flow_command
@flow_options
def change(
    heartbeat: Heartbeat, name: str, values: dict[str, Any], **options: str | None
) -> tuple[FlowMembers, str]:
    """Change the schedule or the configuration of the flow NAME.

    The other keys of its configuration stay. `heartbeat reset` returns to the declared schedule.
    """
    given = _given(**options)
    if not given and not values:
        raise click.UsageError("give --every, --cron, --timezone or --set")
    flow = operations.change(heartbeat, name, given, values)
    done = f"{name} runs {schedule_of(flow)}, with the configuration {flow.configuration}"
    return flow, done


@flow_command
@click.argument("new")
def rename(heartbeat: Heartbeat, name: str, new: str) -> tuple[FlowMembers, str]:
    """Rename the flow NAME to NEW. It keeps its history."""
    flow = operations.change(heartbeat, name, {"name": new})
    return flow, f"renamed {name} to {new}{_comes_back(heartbeat, name)}"


@command
@name_argument
def remove(heartbeat: Heartbeat, name: str) -> None:
    """Remove the flow NAME and its history.

    The writes of a run in progress are rolled back. A flow that is still declared in the code comes
    back, as a new one, when the application starts again.
    """
    runs = operations.remove(heartbeat, name)
    done = f"removed {name} and its {runs} runs{_comes_back(heartbeat, name)}"
    click.echo(printable(done, kept="\n"))


@flow_command
def reset(heartbeat: Heartbeat, name: str) -> tuple[FlowMembers, str]:
    """Return the flow NAME to the schedule that the code declares."""
    flow = operations.reset(heartbeat, name)
    return flow, f"{name} runs {heartbeat.flows[str(flow.handler)].schedule} again"


@flow_command
@click.option("--reason", metavar="TEXT", help="The reason, which is kept with the flow.")
def pause(heartbeat: Heartbeat, name: str, reason: str | None) -> tuple[FlowMembers, str]:
    """Disable the flow NAME: it is no longer due. Its pending run is cancelled."""
    by = "paused from the command line" + (f": {reason}" if reason else "")
    flow = operations.change(heartbeat, name, {"enabled": False}, pause_reason=by)
    return flow, f"{name} is disabled"


@flow_command
def resume(heartbeat: Heartbeat, name: str) -> tuple[FlowMembers, str]:
    """Enable the flow NAME. Of the slots that passed while it was disabled, at most one runs."""
    return operations.change(heartbeat, name, {"enabled": True}), f"{name} is enabled"


@command
@json_option
@name_argument
def why(heartbeat: Heartbeat, name: str, *, as_json: bool) -> None:
    """Explain what the flow NAME does next and when, or what prevents it."""
    with heartbeat.session() as session:
        [flow] = describe(heartbeat, session, name)
    if as_json:
        print_json(flow)
        return
    click.echo(printable(flow.why))
    try:
        zone = read_zone(flow.timezone or "UTC")
    except ScheduleError:  # the row was changed by hand
        zone = read_zone("UTC")
    rows = [{zone.key: slot.astimezone(zone), "UTC": slot} for slot in flow.next_slots]
    print_table("slots to come", rows)


def _comes_back(heartbeat: Heartbeat, name: str) -> str:
    if name not in heartbeat.flows:
        return ""
    place = heartbeat.flows[name].place
    return f"\n{name} is still declared in {place}: delete it there, or it comes back"
