"""The optional command that lists the flows."""

from typing import Any

import click
from sqlalchemy import select
from sqlalchemy.orm import defer

from ..core import Heartbeat
from ..durations import format_every
from ..models import DataFlow
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
