"""Optional commands about runs: one by hand, and the history."""

from typing import Any

import click
from sqlalchemy import select

from ..core import Heartbeat
from ..errors import UnknownFlowError
from ..models import DataFlow, DataFlowRun, RunStatus
from ..operations import claim_by_hand
from ..redaction import error_of
from ..runs.execute import execute
from ..views.beat import members
from .application import command, json_option, show

# As text: of an enumeration's members click would take the names, in capitals.
STATUSES = [status.value for status in RunStatus]


@command
@json_option
@click.option("--flow", "name", help="Only the runs of this flow.")
@click.option("--status", type=click.Choice(STATUSES), help="Only the runs in this status.")
@click.option("--limit", type=click.IntRange(1, 10**9), default=20, help="How many, newest first.")
def runs(
    heartbeat: Heartbeat, name: str | None, status: str | None, limit: int, *, as_json: bool
) -> None:
    """Show the history of runs, newest first."""
    columns = select(DataFlow.name, *DataFlowRun.__table__.columns).join(DataFlowRun.data_flow)
    statement = columns.order_by(DataFlowRun.id.desc()).limit(limit)
    if status:
        statement = statement.where(DataFlowRun.status == status)
    with heartbeat.session() as session:
        if name is not None:
            if not session.scalars(select(DataFlow.id).where(DataFlow.name == name)).all():
                raise UnknownFlowError(name)
            statement = statement.where(DataFlow.name == name)
        found = [row._asdict() for row in session.execute(statement)]
    show("runs", found if as_json else [_as_line(row) for row in found], as_json=as_json)


@command
@json_option
@click.argument("name")
def run(heartbeat: Heartbeat, name: str, *, as_json: bool) -> None:
    """Run the flow NAME now, in this process. Its schedule stays as it is.

    The exit code is 1 if the run failed.
    """
    claimed = heartbeat.transact(lambda session: claim_by_hand(session, heartbeat, name))
    status = execute(heartbeat, claimed)
    with heartbeat.session() as session:
        row = session.get_one(DataFlowRun, claimed.id)
        told = {**members(row, name), "result": row.result}
    show("run", [told], as_json=as_json)
    if status is not RunStatus.SUCCESS:
        raise SystemExit(1)


def _as_line(row: dict[str, Any]) -> dict[str, Any]:
    outcome = error_of(row["error_type"], row["error_message"]) or row["result"]
    return {
        "run": row["id"],
        "flow": row["name"],
        "status": row["status"],
        "trigger": row["trigger"],
        "slot (UTC)": row["scheduled_for"],
        "started (UTC)": row["started_at"],
        "seconds": row["duration"] and round(row["duration"], 3),
        "result or error": outcome,
    }
