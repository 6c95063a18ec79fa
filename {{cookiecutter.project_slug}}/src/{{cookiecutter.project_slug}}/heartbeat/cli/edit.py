"""Commands that change flows, and the one that says what a flow does next."""

import functools
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click
from sqlalchemy.orm import Session

from .. import operations
from ..core import Heartbeat
from ..schedules.between import read_zone
from ..why import describe
from .application import command, json_option, show


def on_flow(step: Callable[..., str]) -> click.Command:
    """Turn a step of bookkeeping on the flow NAME into a command that prints what it returns."""

    @command
    @click.argument("name")
    @functools.wraps(step)
    def called(heartbeat: Heartbeat, **options: Any) -> None:
        click.echo(heartbeat.transact(lambda session: step(session, heartbeat, **options)))

    return called


@on_flow
@click.option("--handler", required=True, help="Which flow of the code it calls.")
@click.option("--every", help='How often, such as "10m".')
@click.option("--cron", help='When instead, such as "0 3 * * *".')
@click.option("--timezone", help='Where that is the time, such as "Europe/Berlin".')
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Of its configuration.")
def add(session: Session, heartbeat: Heartbeat, pairs: tuple[str, ...], **options: str) -> str:
    """Add the flow NAME: another one of a handler, with a configuration of its own."""
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if pairs:
        given["configuration"] = dict(map(_parse, pairs))
    operations.add(session, heartbeat, given, "")
    return f"added {options['name']}"


@on_flow
@click.argument("new")
def rename(session: Session, heartbeat: Heartbeat, name: str, new: str) -> str:
    """Call the flow NAME something NEW. Its history stays with it."""
    operations.change(session, heartbeat, name, {"name": new}, "")
    return f"{name} is called {new} now{_comes_back(heartbeat, name)}"


@on_flow
def remove(session: Session, heartbeat: Heartbeat, name: str) -> str:
    """Remove the flow NAME and its history.

    A run that is under way commits nothing any more. Flows that are still declared in the code
    come back, as new ones, when the application starts again.
    """
    runs = operations.remove(session, name)
    return f"removed {name} and its {runs} runs{_comes_back(heartbeat, name)}"


@on_flow
def reset(session: Session, heartbeat: Heartbeat, name: str) -> str:
    """Let the schedule that the code declares hold again for the flow NAME."""
    return f"{name} runs {operations.reset(session, heartbeat, name).declared_schedule} again"


@on_flow
@click.option("--reason", help="Why, for those who come later.")
def pause(session: Session, heartbeat: Heartbeat, name: str, reason: str | None) -> str:
    """Disable the flow NAME: it is due no more. A run that waits is ended as cancelled."""
    by = "paused from the command line" + (f": {reason}" if reason else "")
    operations.change(session, heartbeat, name, {"enabled": False}, by)
    return f"{name} is disabled"


@on_flow
def resume(session: Session, heartbeat: Heartbeat, name: str) -> str:
    """Enable the flow NAME. However long it was disabled, it runs once for that at most."""
    operations.change(session, heartbeat, name, {"enabled": True}, "")
    return f"{name} is enabled"


@command
@json_option
@click.argument("name")
def why(heartbeat: Heartbeat, name: str, *, as_json: bool) -> None:
    """Say what the flow NAME does next and when, or what stands in its way."""
    with heartbeat.session() as session:
        [flow] = describe(heartbeat, session, name)
    if as_json:
        show(name, [{key: flow[key] for key in ("name", "why", "next_slots")}], as_json=True)
        return
    click.echo(flow["why"])
    zone = read_zone(flow["timezone"])
    rows = [{zone.key: slot.astimezone(zone), "UTC": slot} for slot in flow["next_slots"]]
    show("slots to come", rows, as_json=False)


def _parse(pair: str) -> tuple[str, Any]:
    key, equals, value = pair.partition("=")
    if not equals:
        raise click.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--set")
    with suppress(ValueError):
        return key, json.loads(value)
    return key, value


def _comes_back(heartbeat: Heartbeat, name: str) -> str:
    if name not in heartbeat.flows:
        return ""
    place = heartbeat.flows[name].place
    return f"\n{name} is still declared in {place}: delete it there, or it comes back"
