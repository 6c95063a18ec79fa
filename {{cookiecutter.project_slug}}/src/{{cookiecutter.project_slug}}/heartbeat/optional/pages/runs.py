"""The page of runs: newest first, or the failures by their errors."""

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple
from urllib.parse import urlencode

import sqlalchemy as sa
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy.orm import Session

from ...core import Heartbeat
from ...db.stored import readable
from ...db.types import StoredTime
from ...models import DataFlow, DataFlowRun, RunStatus
from ...runs.unreadable import readable_values
from ...views.resources import read_query
from ..history.lists import run_rows
from ..history.members import RunQuery
from .rendering import page

PAGE_SIZE = 30
# Failures are grouped among the newest ones: reading all of them would take too long.
NEWEST_FAILURES = 1_000
MAX_GROUPS = 60
SPANS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}
_COLUMNS = [
    getattr(DataFlowRun, name)
    for name in (
        *("id", "status", "trigger", "attempt", "scheduled_for", "started_at", "ended_at"),
        *("duration", "error_type"),
    )
]
# Without results, logs and backtraces. A message may be long, too.
_ROWS = sa.select(
    DataFlow.name.label("flow"),
    DataFlow.timezone,
    sa.func.substr(DataFlowRun.error_message, 1, 200).label("error_message"),
    *_COLUMNS,
).join(DataFlowRun.data_flow)


class RunPageQuery(RunQuery):
    """The parameters of the page. by="error": the failures by their errors; `did`: a message."""

    by: Literal["error"] | None = None
    did: str | None = None


class Group(NamedTuple):
    """The failures of a flow with an error; `counts` are those of SPANS. is_failing: still so."""

    flow: str
    zone: str
    first: datetime | None
    last: datetime | None
    last_run: int
    counts: list[int]
    is_failing: bool


def runs(request: Request) -> Response:
    """Show the runs that the filters select, or the failures by their errors."""
    heartbeat: Heartbeat = request.heartbeat
    query = read_query(request, RunPageQuery)
    if query.by:
        return _failures(request, heartbeat)
    with heartbeat.session() as session:
        filters: dict[str, Any] = query.model_dump(include={"flow", "status", "before"})
        rows = run_rows(session, _ROWS, **filters, limit=PAGE_SIZE + 1)
    found = [readable_values(row) | {"flow": str(row.flow)} for row in rows[:PAGE_SIZE]]
    following = ""
    if len(rows) > PAGE_SIZE:
        given = {"flow": query.flow or "", "status": query.status or ""}
        following = "?" + urlencode({**given, "before": found[-1]["id"]})
    return page(
        request,
        "runs.jinja2",
        active="runs",
        rows=found,
        flow=query.flow or "",
        outcome=query.status or "",
        is_first=query.before is None,
        following=following,
        statuses=[status.value for status in RunStatus],
    )


def _failures(request: Request, heartbeat: Heartbeat) -> Response:
    now = heartbeat.clock.now()
    with heartbeat.session() as session:
        rows = session.execute(_grouped(now)).all()
    groups: dict[str, list[Group]] = defaultdict(list)
    for row in rows[:MAX_GROUPS]:
        zone, first, last = map(readable, (row.timezone, row.first, row.last))
        kind = str(readable(row.error_type) or "unknown")
        is_failing = readable(row.last_run_status) == RunStatus.FAILED
        counts = [int(getattr(row, span)) for span in SPANS]
        group = Group(str(row.name), zone or "UTC", first, last, row.run_id, counts, is_failing)
        groups[kind].append(group)
    return page(
        request,
        "failures.jinja2",
        active="runs",
        groups=groups,
        # Of this many, some are not counted.
        is_cut=sum(row.total for row in rows) >= NEWEST_FAILURES,
        newest=NEWEST_FAILURES,
        more=max(len(rows) - MAX_GROUPS, 0),
    )


def _newest_failures() -> sa.Subquery:
    columns = DataFlowRun.id, DataFlowRun.data_flow_id, DataFlowRun.error_type, DataFlowRun.ended_at
    newest = sa.select(*columns).where(DataFlowRun.status == RunStatus.FAILED.value)
    return newest.order_by(DataFlowRun.id.desc()).limit(NEWEST_FAILURES).subquery()


def _grouped(now: datetime) -> sa.Select[Any]:
    """Select the newest failures by error type and flow: those that still fail first."""
    runs = _newest_failures()
    counts = [
        sa.func.sum(
            sa.case((runs.c.ended_at >= sa.literal(now - span, StoredTime()), 1), else_=0)
        ).label(name)
        for name, span in SPANS.items()
    ]
    by_error = (
        sa.select(
            runs.c.data_flow_id,
            runs.c.error_type,
            sa.func.min(runs.c.ended_at).label("first"),
            sa.func.max(runs.c.ended_at).label("last"),
            sa.func.max(runs.c.id).label("run_id"),
            sa.func.count().label("total"),
            *counts,
        )
        .group_by(runs.c.data_flow_id, runs.c.error_type)
        .subquery()
    )
    columns = DataFlow.name, DataFlow.timezone, DataFlow.last_run_status, *by_error.c
    grouped = sa.select(*columns).join(DataFlow, DataFlow.id == by_error.c.data_flow_id)
    is_over = sa.case((DataFlow.last_run_status == RunStatus.FAILED.value, 0), else_=1)
    return grouped.order_by(is_over, by_error.c.run_id.desc())


def flows_failing_with(session: Session, error_type: str) -> list[int]:
    """Return the ids of the flows whose newest failures have an error, and that still fail."""
    runs = _newest_failures()
    flows = sa.select(runs.c.data_flow_id).distinct()
    flows = flows.join(DataFlow, DataFlow.id == runs.c.data_flow_id)
    flows = flows.where(DataFlow.last_run_status == RunStatus.FAILED.value)
    # A NULL is shown as "unknown".
    kind = sa.func.coalesce(runs.c.error_type, "unknown")
    return [*session.scalars(flows.where(kind == error_type))]
