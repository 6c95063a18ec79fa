"""The command that lists the flows."""

from typing import Any

from ...cli.application import command
from ...cli.output import json_option, print_json, print_table
from ...core import Heartbeat
from .members import FlowMembers
from .why import describe


@command
@json_option
def flows(heartbeat: Heartbeat, *, as_json: bool) -> None:
    """List the flows, and when each is due next."""
    with heartbeat.session() as session:
        found = describe(heartbeat, session)
    if as_json:
        print_json(found)
    else:
        print_table("flows", [_as_line(heartbeat, flow) for flow in found])


def _as_line(heartbeat: Heartbeat, flow: FlowMembers) -> dict[str, Any]:
    state = "enabled" if flow.enabled else "disabled"
    if flow.handler not in heartbeat.flows:
        state = f"handler {flow.handler!r} not registered"
    return {
        "flow": flow.name,
        "schedule": schedule_of(flow),
        "state": state,
        "next run (UTC)": flow.next_run_at,
        "last run (UTC)": flow.last_run_at,
        "last status": flow.last_run_status,
        "description": flow.description,
    }


def schedule_of(flow: FlowMembers) -> str:
    """Return a flow's schedule in words."""
    return f"every {flow.every}" if flow.every else f"cron {flow.cron} {flow.timezone}"
