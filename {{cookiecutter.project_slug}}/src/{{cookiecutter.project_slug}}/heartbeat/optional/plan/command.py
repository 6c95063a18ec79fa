"""The command `heartbeat plan`."""

from collections.abc import Callable, Sequence
from typing import Any

import click

from ...cli.application import application, config_option
from ...cli.output import cell, json_option, print_json, print_table
from ...migrations import require_current
from .members import Collision, Hour, Plan, PlannedFlow
from .planning import make_plan

MAX_DAYS = 366
# How many flows a table shows, those with differences first; `--json` prints all of them.
MAX_LINES = 200


@click.command()
@config_option
@json_option
@click.option(
    "--days", type=click.IntRange(1, MAX_DAYS), default=7, help="How far the forecast reaches."
)
def plan(config: str, *, as_json: bool, days: int) -> None:
    """Compare declared with stored schedules, and forecast the coming slots.

    Nothing is written. The exit code is 1 if a schedule differs from its declaration, or if a flow
    does not run: for CI and deployments.
    """
    with application(config) as heartbeat:
        require_current(heartbeat.engine)
        made = make_plan(heartbeat, days)
    if as_json:
        print_json(made)
    else:
        _print(made)
    if made.difference_count:
        raise SystemExit(1)


def _print(plan: Plan) -> None:
    flows = sorted(plan.flows, key=lambda flow: not flow.differences)
    _print_flows("flows", flows, _schedule_line)
    click.echo(f"\nForecast until {cell(plan.end)} UTC, with {_number(plan.workers, 'worker')}")
    coming = sorted((flow for flow in flows if flow.next_slots), key=lambda flow: flow.next_slots)
    _print_flows("slots to come", coming, _slots_line)
    overloaded = _number(plan.overloaded_hours, "hour")
    click.echo(f"\nHours with more work than the workers can do: {overloaded}")
    # The busiest hour is of interest even if it is not too busy.
    hours = plan.busiest_hours[: max(plan.overloaded_hours, 1)]
    print_table("coming slots", [_hour_line(hour, plan.workers) for hour in hours])
    collisions = _number(plan.collision_count, "time")
    click.echo(f"\nMore flows due at once than there are workers: {collisions}")
    if plan.collisions:
        print_table("collisions", [*map(_collision_line, plan.collisions)])
    click.echo("\nAssumptions")
    for sentence in plan.assumptions:
        click.echo(f"- {sentence}")
    click.echo(f"\n{_number(plan.difference_count, 'difference')} from the code")
    for flow in flows:
        for difference in flow.differences:
            click.echo(f"- {cell(flow.name)}: {cell(difference.why)}")


def _print_flows(
    title: str, flows: Sequence[PlannedFlow], line: Callable[[PlannedFlow], dict[str, Any]]
) -> None:
    """Print a table of the first flows."""
    print_table(title, [*map(line, flows[:MAX_LINES])])
    if len(flows) > MAX_LINES:
        click.echo(f"and {len(flows) - MAX_LINES} more")


def _number(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def _schedule_line(flow: PlannedFlow) -> dict[str, Any]:
    return {
        "flow": flow.name,
        "declared": flow.declared,
        "stored": flow.stored,
        "difference": ", ".join(each.kind for each in flow.differences),
    }


def _slots_line(flow: PlannedFlow) -> dict[str, Any]:
    return {
        "flow": flow.name,
        "slots": flow.slots,
        "next slots (UTC)": ", ".join(map(cell, flow.next_slots)),
        "last slot (UTC)": flow.last_slot,
        "seconds": flow.usual_seconds,
    }


def _hour_line(hour: Hour, workers: int) -> dict[str, Any]:
    return {
        "busiest hour (UTC)": hour.begin,
        "slots": hour.slots,
        "busy seconds": hour.busy_seconds,
        "of the workers' time": f"{hour.busy_seconds / 3_600 / workers:.1%}",
    }


def _collision_line(collision: Collision) -> dict[str, Any]:
    names = ", ".join(collision.flows)
    more = collision.flow_count - len(collision.flows)
    return {
        "first (UTC)": collision.first,
        "times": collision.times,
        "flows": collision.flow_count,
        "names": f"{names} and {more} more" if more else names,
    }
