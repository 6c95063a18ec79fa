"""One builder for each of the engine's models: a row that the database takes, with what you give.

The row is not stored: `dbsession.add(data_flow(name="orders"))`, then `dbsession.commit()`.
"""

from datetime import UTC, datetime
from typing import Any

from data_flows.heartbeat.models import DataFlow, DataFlowBeat, DataFlowRun
from data_flows.heartbeat.run import ClaimedRun

# What FakeClock shows at first.
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def data_flow(**columns: Any) -> DataFlow:
    """Build a flow of five minutes that is enabled and was never run."""
    name = columns.get("name", "orders")
    return DataFlow(**{"name": name, "handler": name, "run_interval": 300, **columns})


def data_flow_run(**columns: Any) -> DataFlowRun:
    """Build a run that is pending; say whose with `data_flow` or `data_flow_id`."""
    return DataFlowRun(**{"trigger": "manual", "created_at": NOON, **columns})


def claimed_run(**members: Any) -> ClaimedRun:
    """Build what a process knows of a run that it has claimed; no row belongs to it."""
    known = dict.fromkeys(ClaimedRun.__dataclass_fields__)
    return ClaimedRun(**{**known, "id": 1, "claim_id": "ours", **members})


def data_flow_beat(**columns: Any) -> DataFlowBeat:
    """Build a beat that found nothing due."""
    return DataFlowBeat(**{"received_at": NOON, "source": "127.0.0.1", **columns})
