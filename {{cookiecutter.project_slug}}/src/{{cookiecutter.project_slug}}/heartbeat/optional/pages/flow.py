"""The page of a flow: what happens next, how its runs went, and the forms that change it."""

import shlex
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from http import HTTPStatus
from typing import Any

import sqlalchemy as sa
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy.orm import Session

from ...core import Heartbeat
from ...db.types import StoredTime
from ...errors import ScheduleError
from ...models import DataFlow, DataFlowRun, RunStatus
from ...runs.unreadable import readable_values
from ...schedules.between import read_zone
from ..operate.why import describe
from .forms import fields_of
from .pictures import coverage, scatter
from .rendering import page

# How many of the newest runs are drawn, and how many of them are listed.
DRAWN_RUNS, LISTED_RUNS = 200, 20
WEEKS = 12
DAY = timedelta(days=1)
_COLUMNS = [
    getattr(DataFlowRun, name)
    for name in (
        *("id", "status", "trigger", "scheduled_for", "started_at", "ended_at", "duration"),
        *("window_start", "window_end", "error_type"),
    )
]


def flow(request: Request) -> Response:
    """Show a flow."""
    return flow_page(request, request.matchdict["name"])


def flow_page(
    request: Request,
    name: str,
    status: int = HTTPStatus.OK,
    *,
    problem: str = "",
    typed: Mapping[str, str] | None = None,
    errors: Mapping[str, list[str]] | None = None,
) -> Response:
    """Return the page of a flow, or why it was not changed, with what was typed.

    Raises UnknownFlowError.
    """
    # Here, since the engine imports this package before it has that name.
    from ... import OPTIONAL

    heartbeat: Heartbeat = request.heartbeat
    with heartbeat.session() as session:
        [members] = describe(heartbeat, session, name)
        flow_id = session.scalars(sa.select(DataFlow.id).where(DataFlow.name == name)).one()
        newest = sa.select(*_COLUMNS).where(DataFlowRun.data_flow_id == flow_id)
        newest = newest.order_by(DataFlowRun.id.desc()).limit(DRAWN_RUNS)
        runs = [readable_values(row) for row in session.execute(newest)]
        weeks = _calendar(session, flow_id, members.timezone, heartbeat.clock.now())
    return page(
        request,
        "flow.jinja2",
        status,
        active="flows",
        flow=members,
        is_known=members.handler in heartbeat.flows,
        runs=runs[:LISTED_RUNS],
        running=next((run for run in runs if run["status"] in {"pending", "in_progress"}), None),
        scatter=scatter(runs),
        coverage=coverage(runs, heartbeat.clock.now()),
        shell_name=shlex.quote(name) if "backfill" in OPTIONAL else "",
        weeks=weeks,
        fields=fields_of(heartbeat, members.handler, members.configuration or {}, typed, errors),
        problem=problem,
        errors=errors or {},
        reason=(typed or {}).get("reason", ""),
    )


def _calendar(
    session: Session, flow_id: int, zone: str | None, now: datetime
) -> list[list[tuple[date, str]]]:
    """Return the days of the last WEEKS weeks, in the flow's zone, each with its worst outcome.

    By day of the week, from Monday on. The outcome is empty for a day without a run that ended.
    """
    try:
        place = read_zone(zone or "UTC")
    except ScheduleError:
        place = read_zone("UTC")
    today = now.astimezone(place).date()
    first = today - timedelta(days=today.weekday(), weeks=WEEKS - 1)
    days = [first + number * DAY for number in range((today - first).days + 1)]
    midnights = [datetime.combine(day, time(), place) for day in [*days, today + DAY]]
    params: dict[str, Any] = {f"day_{n}": at.astimezone(UTC) for n, at in enumerate(midnights)}
    row = session.execute(_outcomes(len(days)), {"flow": flow_id, **params}).one()
    found = [
        (day, "failed" if failed else "success" if succeeded else "")
        for day, failed, succeeded in zip(days, row[::2], row[1::2], strict=True)
    ]
    return [found[weekday::7] for weekday in range(7)]


@cache
def _outcomes(days: int) -> sa.Select[Any]:
    """Select for each day whether a run failed, and whether one succeeded.

    An index answers each of these without reading all the runs of a day.
    """
    columns: list[Any] = []
    for number in range(days):
        start, end = (sa.bindparam(f"day_{n}", type_=StoredTime()) for n in (number, number + 1))
        for status in (RunStatus.FAILED, RunStatus.SUCCESS):
            runs = sa.select(DataFlowRun.id).where(
                DataFlowRun.data_flow_id == sa.bindparam("flow"),
                DataFlowRun.status == status.value,
                DataFlowRun.ended_at >= start,
                DataFlowRun.ended_at < end,
            )
            columns.append(runs.exists().label(f"{status}_{number}"))
    return sa.select(*columns)
