"""The JSON members of runs and beats: the same ones by HTTP and with `--json`.

Times are in UTC. A stored value that cannot be read is None.
"""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field, RootModel
from sqlalchemy import Row, select

from .core import Heartbeat
from .db.stored import show
from .errors import UnknownRunError
from .models import DataFlow, DataFlowRun, table_of
from .redaction import error_of
from .runs.unreadable import readable_values


class RunSummary(BaseModel):
    """A run, as a beat's reply shows it. `duration` is in seconds."""

    id: int
    flow: str
    status: str | None
    scheduled_for: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    duration: float | None
    error: str | None


class RunMembers(RunSummary):
    """A run with all its columns."""

    trigger: str | None
    attempt: int | None
    missed_slots: int | None
    not_before: datetime | None
    sent_at: datetime | None
    redeliveries: int | None
    claim_id: str | None
    worker: str | None
    lease_expires_at: datetime | None
    window_start: datetime | None
    window_end: datetime | None
    error_type: str | None
    error_message: str | None
    error_backtrace: str | None
    result: Any
    log: str | None
    created_at: datetime | None
    updated_at: datetime | None


class BeatMembers(BaseModel, from_attributes=True):
    """A beat, as its reply shows it. `duration` is in seconds."""

    timestamp: datetime
    flows_due: int
    flows_triggered: int
    flows_succeeded: int
    flows_failed: int
    flows_in_progress: int
    runs_reaped: int
    duration: float
    # Present where there is something to say.
    note: str | None = Field(None, exclude_if=lambda note: note is None)


class BeatWithRuns(BeatMembers):
    """A beat with the runs that it claimed, for `Prefer: return=representation`."""

    runs: list[RunSummary]


class BeatReply(RootModel[BeatWithRuns | BeatMembers]):
    """The reply to a beat."""


_COLUMNS = [
    column for column in table_of(DataFlowRun).columns if column.key in RunMembers.model_fields
]
# Rows for `run_members`.
RUNS = select(DataFlow.name.label("flow"), *_COLUMNS).join(DataFlowRun.data_flow)


def run_members(row: Row[Any]) -> RunMembers:
    """Return the members of a run for a row of RUNS."""
    values = readable_values(row) | {"flow": str(row.flow)}
    error = error_of(values["error_type"], values["error_message"])
    return RunMembers(**values, error=error)


def find_run(heartbeat: Heartbeat, run_id: int) -> RunMembers:
    """Return the members of a run. Raises UnknownRunError."""
    with heartbeat.session() as session:
        row = session.execute(RUNS.where(DataFlowRun.id == run_id)).one_or_none()
    if row is None:
        raise UnknownRunError(run_id)
    return run_members(row)


def as_json(value: object) -> object:
    """Return a value that JSON can express: for the argument `default` of json.dumps."""
    return value.model_dump() if isinstance(value, BaseModel) else show(value)
