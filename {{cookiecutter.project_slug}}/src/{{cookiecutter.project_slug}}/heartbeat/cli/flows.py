"""Optional commands about flows: what there is, and taking one away."""

from typing import Any

import click
from sqlalchemy import delete, func, select
from sqlalchemy.orm import defer

from ..core import Heartbeat
from ..durations import format_every
from ..errors import UnknownFlowError
from ..models import DataFlow, DataFlowRun
from ..runs.register import register
from .application import application, config_option, json_option, show


@click.command()
@config_option
@json_option
def flows(config: str, *, as_json: bool) -> None:
    """List the flows, and when each is due next."""
    with application(config) as heartbeat:
        register(heartbeat)
        with heartbeat.session() as session:
            rows = session.scalars(
                # Not the configuration: one that cannot be read must not hide the others.
                select(DataFlow).options(defer(DataFlow.configuration)).order_by(DataFlow.name)
            )
            found = [_as_row(heartbeat, flow) for flow in rows]
    show("flows", found, as_json=as_json)


@click.command()
@config_option
@click.argument("name")
def remove(config: str, name: str) -> None:
    """Remove the flow NAME and its history.

    A run that is under way commits nothing any more. Flows that are still declared in the code
    come back, as new ones, when the application starts again.
    """
    with application(config) as heartbeat:
        with heartbeat.session() as session:
            flow_id = session.scalars(
                select(DataFlow.id).where(DataFlow.name == name).with_for_update()
            ).one_or_none()
            if flow_id is None:
                raise UnknownFlowError(name)
            runs = session.scalars(
                select(func.count()).where(DataFlowRun.data_flow_id == flow_id)
            ).one()
            session.execute(delete(DataFlow).where(DataFlow.id == flow_id))
        click.echo(f"removed {name} and its {runs} runs")
        if name in heartbeat.flows:
            place = heartbeat.flows[name].place
            click.echo(f"it is still declared in {place}: delete it there, or it comes back")


def _as_row(heartbeat: Heartbeat, flow: DataFlow) -> dict[str, Any]:
    state = "enabled" if flow.enabled else "disabled"
    if flow.handler not in heartbeat.flows:
        state = f"handler {flow.handler!r} not registered"
    return {
        "name": flow.name,
        "schedule": f"every {format_every(flow.run_interval)}"
        if flow.run_interval
        else f"cron {flow.cron}",
        "state": state,
        "next run (UTC)": flow.next_run_at if flow.enabled else None,
        "last run (UTC)": flow.last_run_at,
        "last status": flow.last_run_status,
        "description": flow.description,
    }
