"""Commands that change flows, and the one that says what a flow does next."""

import functools
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click
from sqlalchemy.orm import Session

from ...cli.application import command
from ...cli.names import name_argument
from ...cli.output import json_option, print_json, print_table
from ...core import Heartbeat
from ...errors import ScheduleError
from ...members import FlowMembers
from ...printing import printable
from ...runs.request import lock_flow
from ...runs.unreadable import require_readable
from ...schedules.between import read_zone
from . import operations
from .flows import schedule_of
from .why import describe


def on_flow(step: Callable[..., str]) -> click.Command:
    """Turn a step of bookkeeping on the flow NAME into a command that prints what it returns.

    With --json, the command prints the members that the flow then has instead.
    """

    @command
    @json_option
    @name_argument
    @functools.wraps(step)
    def called(heartbeat: Heartbeat, *, as_json: bool, **options: Any) -> None:
        def work(session: Session) -> tuple[str, FlowMembers]:
            done = step(session, heartbeat, **options)
            [flow] = describe(heartbeat, session, options.get("new", options["name"]))
            return done, flow

        done, flow = heartbeat.transact(work)
        if as_json:
            print_json(flow)
        else:
            click.echo(printable(done, kept="\n"))

    return called


def _read_pairs(
    _context: click.Context, _option: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE")
        values[key] = value
        with suppress(ValueError):
            values[key] = json.loads(value)
    return values


def flow_options(work: Callable[..., str]) -> Callable[..., str]:
    """Add the options for a flow's schedule and configuration."""
    every = click.option("--every", metavar="INTERVAL", help='How often, such as "10m".')
    cron = click.option("--cron", metavar="EXPRESSION", help='When instead, such as "0 3 * * *".')
    zone = click.option(
        "--timezone", metavar="ZONE", help='The zone of these times, such as "Europe/Berlin".'
    )
    values = click.option(
        "--set",
        "values",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_read_pairs,
        help="A key of the configuration, and its value as JSON or as text. Repeatable.",
    )
    return every(cron(zone(values(work))))


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


@on_flow
@click.option("--handler", metavar="NAME", required=True, help="Which flow of the code it calls.")
@flow_options
def add(
    session: Session, heartbeat: Heartbeat, values: dict[str, Any], **options: str | None
) -> str:
    """Add the flow NAME: another one of a handler, with a configuration of its own."""
    given = _given(options)
    if values:
        given["configuration"] = values
    operations.add(session, heartbeat, given, "")
    return f"added {options['name']}"


@on_flow
@flow_options
def change(
    session: Session,
    heartbeat: Heartbeat,
    name: str,
    values: dict[str, Any],
    **options: str | None,
) -> str:
    """Change the schedule or the configuration of the flow NAME.

    The other keys of its configuration stay. `heartbeat reset` returns to the declared schedule.
    """
    given = _given(options)
    if not given and not values:
        raise click.UsageError("give --every, --cron, --timezone or --set")
    if values:
        flow = lock_flow(session, heartbeat, name)
        require_readable(flow)
        given["configuration"] = {**(flow.configuration or {}), **values}
    operations.change(session, heartbeat, name, given, "")
    [flow_now] = describe(heartbeat, session, name)
    return f"{name} runs {schedule_of(flow_now)}, with the configuration {flow_now.configuration}"


@on_flow
@click.argument("new")
def rename(session: Session, heartbeat: Heartbeat, name: str, new: str) -> str:
    """Call the flow NAME something NEW. Its history stays with it."""
    operations.change(session, heartbeat, name, {"name": new}, "")
    return f"renamed {name} to {new}{_comes_back(heartbeat, name)}"


@command
@name_argument
def remove(heartbeat: Heartbeat, name: str) -> None:
    """Remove the flow NAME and its history.

    A run in progress commits nothing any more. Flows that are still declared in the code
    come back, as new ones, when the application starts again.
    """
    runs = heartbeat.transact(lambda session: operations.remove(session, heartbeat, name))
    done = f"removed {name} and its {runs} runs{_comes_back(heartbeat, name)}"
    click.echo(printable(done, kept="\n"))


@on_flow
def reset(session: Session, heartbeat: Heartbeat, name: str) -> str:
    """Return the flow NAME to the schedule that the code declares."""
    return f"{name} runs {operations.reset(session, heartbeat, name).declared_schedule} again"


@on_flow
@click.option("--reason", metavar="TEXT", help="Why, for the record.")
def pause(session: Session, heartbeat: Heartbeat, name: str, reason: str | None) -> str:
    """Disable the flow NAME: it is no longer due. Its pending run is cancelled."""
    by = "paused from the command line" + (f": {reason}" if reason else "")
    operations.change(session, heartbeat, name, {"enabled": False}, by)
    return f"{name} is disabled"


@on_flow
def resume(session: Session, heartbeat: Heartbeat, name: str) -> str:
    """Enable the flow NAME. However long it was disabled, it runs at most once for that time."""
    operations.change(session, heartbeat, name, {"enabled": True}, "")
    return f"{name} is enabled"


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
