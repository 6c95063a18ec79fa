"""The figures, read by three statements, none of which counts runs that have ended.

Sums and counts of runs are kept with each flow's row: see `runs/finish.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Double,
    Row,
    ScalarSelect,
    Select,
    and_,
    bindparam,
    case,
    func,
    or_,
    select,
    true,
)
from sqlalchemy.orm import InstrumentedAttribute, Session

from ...core import Heartbeat
from ...db.stored import Unreadable, readable
from ...db.types import Id, UTCDateTime
from ...definition import MAX_INTEGER
from ...models import NEVER_SCHEDULED, DataFlow, DataFlowBeat, DataFlowRun, RunStatus
from ...runs.due import IS_DUE, IS_PENDING, eligibility_filters, query_params
from ...runs.unreadable import readable_values

# The label of all flows beyond heartbeat.metrics_flows, and of a flow that has this name.
OTHER = "other"
COUNTERS: tuple[InstrumentedAttribute[Any], ...] = (
    *(DataFlow.success_count, DataFlow.success_seconds),
    *(DataFlow.failure_count, DataFlow.failure_seconds),
    *(DataFlow.reaped_count, DataFlow.redelivered_count),
)
# A number of Prometheus is a float, which has no larger whole numbers without gaps.
MAX_EXACT = 2**53

_SLOT = case(
    (DataFlow.next_run_at <= NEVER_SCHEDULED, DataFlow.created_at), else_=DataFlow.next_run_at
)
_IS_OTHER = or_(DataFlow.id > bindparam("last_id", type_=Id), DataFlow.name == OTHER)
_LAST_BEAT = select(DataFlowBeat.received_at).order_by(DataFlowBeat.id.desc()).limit(1)
# Without `redeliver_after` in the parameters, IS_PENDING includes runs that wait for a worker.
_PENDING_SINCE = select(func.min(DataFlowRun.waiting_since())).join(DataFlowRun.data_flow)
_PENDING_SINCE = _PENDING_SINCE.where(*IS_PENDING).correlate(None)
_WORKERS = select(func.count(DataFlowRun.worker.distinct())).where(
    *DataFlowRun.is_leased(bindparam("now", type_=UTCDateTime()))
)


@dataclass(frozen=True, slots=True)
class FlowFigures:
    """The figures of a flow, or of several together. One that cannot be read is None.

    counters: by the names of their columns. lateness: how many seconds ago its slot came, if it is
    due. enabled: the number of enabled flows. interval: the seconds from slot to slot.
    """

    counters: Mapping[str, float | None]
    lateness: float | None
    failures_in_a_row: float | None
    enabled: float | None
    last_success_at: datetime | None = None
    interval: int | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """What a scrape reports: the figures of each flow by its label, and those of all together.

    oldest_pending: the seconds for which the oldest pending run that could start has waited.
    workers: the number of processes that execute runs, by their leases.
    """

    flows: Mapping[str, FlowFigures]
    flows_due: int
    lateness: float | None
    runs_pending: int
    runs_in_progress: int
    oldest_pending: float | None
    workers: int
    last_beat_at: datetime | None


def read_figures(heartbeat: Heartbeat, session: Session) -> Figures:
    """Read the figures of this moment.

    The first `heartbeat.metrics_flows` flows by id have labels of their own: all processes choose
    the same ones, and a new flow moves none from its own label to OTHER.
    """
    now = heartbeat.clock.now()
    params = query_params(now, heartbeat.flows)
    is_due = and_(*IS_DUE, *eligibility_filters(heartbeat, {}))
    limit = heartbeat.settings.metrics_flows
    rows = session.execute(_own_flows(is_due).limit(limit), params).all()
    params["last_id"] = rows[-1].id if rows else 0
    total = session.execute(_totals(is_due), params).one()
    others = session.execute(_others(), params).one()

    flows = {_label_of(row): _figures_of(heartbeat, row, now) for row in rows}
    if others.flows:
        flows[OTHER] = _together(others, _seconds_since(total.other_slot, now))
    return Figures(
        flows=flows,
        flows_due=total.due,
        lateness=_seconds_since(total.slot, now),
        runs_pending=total.pending,
        runs_in_progress=total.in_progress,
        oldest_pending=_seconds_since(total.pending_since, now),
        workers=total.workers,
        last_beat_at=readable(total.last_beat_at),
    )


def _own_flows(is_due: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    """Select the flows that have labels of their own."""
    columns = DataFlow.id, DataFlow.name, DataFlow.handler, DataFlow.enabled, DataFlow.run_interval
    state = DataFlow.failures_in_a_row, DataFlow.last_success_at
    due_slot = case((is_due, _SLOT)).label("due_slot")
    return (
        select(*columns, *COUNTERS, *state, is_due.label("is_due"), due_slot)
        .where(DataFlow.name != OTHER)
        .order_by(DataFlow.id)
    )


def _totals(is_due: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    """Select the figures of all flows together, through indexes on those that are due or active."""
    return select(
        func.count().label("due"),
        func.min(_SLOT).label("slot"),
        func.min(case((_IS_OTHER, _SLOT))).label("other_slot"),
        _count(RunStatus.PENDING).label("pending"),
        _count(RunStatus.IN_PROGRESS).label("in_progress"),
        _PENDING_SINCE.scalar_subquery().label("pending_since"),
        _WORKERS.scalar_subquery().label("workers"),
        _LAST_BEAT.scalar_subquery().label("last_beat_at"),
    ).where(DataFlow.id.is_not(None), is_due)


def _count(status: RunStatus) -> ScalarSelect[int]:
    """Count the runs of a status that none keeps for long."""
    runs = select(func.count()).select_from(DataFlowRun).where(DataFlowRun.status == status.value)
    return runs.scalar_subquery()


def _others() -> Select[*tuple[Any, ...]]:
    """Select the sums and maxima of the other flows."""
    is_enabled = DataFlow.enabled == true()
    numbers = {column.key: _number(column, MAX_EXACT) for column in COUNTERS}
    sums = [func.sum(number, type_=Double()).label(key) for key, number in numbers.items()]
    failures = case((is_enabled, _number(DataFlow.failures_in_a_row, MAX_INTEGER)), else_=0)
    return select(
        func.count().label("flows"),
        func.sum(case((is_enabled, 1), else_=0), type_=Double()).label("enabled"),
        func.max(failures, type_=Double()).label("failures_in_a_row"),
        *sums,
    ).where(_IS_OTHER)


def _number(column: InstrumentedAttribute[Any], limit: int) -> ColumnElement[Any]:
    """Return a column; 0 for values that are not numbers up to `limit`, written by hand."""
    return case((column.between(0, limit), column), else_=0)


def _label_of(row: Row[Any]) -> str:
    """Return the label of a flow: its name."""
    if isinstance(row.name, str):
        # A lone surrogate, which only a hand-written name has, is not valid UTF-8.
        return row.name.encode(errors="backslashreplace").decode()
    return f"{row.name} (flow {row.id})"


def _figures_of(heartbeat: Heartbeat, row: Row[Any], now: datetime) -> FlowFigures:
    values = readable_values(row)
    definition = heartbeat.flows.get(values["handler"])
    is_steady = definition is None or definition.between is None
    interval = row.run_interval if is_steady and isinstance(row.run_interval, int) else None
    return FlowFigures(
        counters={column.key: _not_negative(values[column.key]) for column in COUNTERS},
        lateness=_seconds_since(row.due_slot, now) if row.is_due else 0.0,
        failures_in_a_row=_not_negative(values["failures_in_a_row"]),
        enabled=values["enabled"],
        last_success_at=values["last_success_at"],
        interval=interval,
    )


def _together(row: Row[Any], lateness: float | None) -> FlowFigures:
    return FlowFigures(
        counters={column.key: getattr(row, column.key) for column in COUNTERS},
        lateness=lateness,
        failures_in_a_row=row.failures_in_a_row,
        enabled=row.enabled,
    )


def _not_negative(value: float | None) -> float | None:
    return value if value is not None and value >= 0 else None


def _seconds_since(moment: datetime | Unreadable | None, now: datetime) -> float | None:
    """Return how many seconds ago a moment was; 0 without one, None if it is unreadable."""
    if isinstance(moment, Unreadable):
        return None
    return max((now - moment).total_seconds(), 0.0) if moment else 0.0
