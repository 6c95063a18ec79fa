"""The optional command that lists the flows."""

from typing import Any

from ..core import Heartbeat
from ..why import describe
from .application import command, json_option, show


@command
@json_option
def flows(heartbeat: Heartbeat, *, as_json: bool) -> None:
    """List the flows, and when each is due next."""
    with heartbeat.session() as session:
        found = [_as_row(heartbeat, flow) for flow in describe(heartbeat, session)]
    show("flows", found, as_json=as_json)


def _as_row(heartbeat: Heartbeat, flow: dict[str, Any]) -> dict[str, Any]:
    cron = f"cron {flow['cron']} {flow['timezone']}"
    state = "enabled" if flow["enabled"] else "disabled"
    if flow["handler"] not in heartbeat.flows:
        state = f"handler {flow['handler']!r} not registered"
    return {
        "name": flow["name"],
        "schedule": f"every {flow['every']}" if flow["every"] else cron,
        "state": state,
        "next run (UTC)": flow["next_run_at"],
        "last run (UTC)": flow["last_run_at"],
        "last status": flow["last_run_status"],
        "description": flow["description"],
    }
