"""The page of all flows: those in trouble first."""

from contextlib import suppress
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import urlencode

import sqlalchemy as sa
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy.orm import Session

from ...core import Heartbeat
from ...db.stored import readable
from ...db.types import StoredTime
from ...errors import ScheduleError
from ...models import NEVER_SCHEDULED, DataFlow, DataFlowRun, RunStatus
from ...models.data_flow import with_active_run
from ...runs.request import rule_of
from ...runs.unreadable import problem_of, readable_values
from ...schedules.rule import next_slots
from ...settings import BEATS_MISSED
from .charts import STRIP_RUNS
from .rendering import page

# With more, a full page would take more than three times as long as one of ten flows.
PAGE_SIZE = 25
# In the order of the page: the gravest first.
STATES = ("failing", "no handler", "late", "stale", "running", "paused", "new", "ok")
TROUBLE = frozenset(STATES[:4])


class StripRun(NamedTuple):
    """A run as a strip shows it."""

    id: int
    status: str | None
    duration: float | None


class FlowRow(NamedTuple):
    """A flow on the page: `values` are its readable columns, `runs` are those of the strip."""

    state: str
    values: dict[str, Any]
    next_slot: datetime | None
    problem: str
    runs: list[StripRun]


def flows(request: Request) -> Response:
    """Show the flows that the filters `q` and `state` select, a page at a time."""
    heartbeat: Heartbeat = request.heartbeat
    text = _cleaned(request.GET.get("q", ""))
    state = request.GET.get("state", "")
    with heartbeat.session() as session:
        counts = state_counts(heartbeat, session, text)
        found = _page_of_flows(heartbeat, session, text, state, request.GET.get("after", ""))
        runs = newest_runs(session, [flow.id for _rank, flow in found[:PAGE_SIZE]])
        rows = [_row(heartbeat, rank, flow, runs[flow.id]) for rank, flow in found[:PAGE_SIZE]]
    following = ""
    if len(found) > PAGE_SIZE:
        last = rows[-1]
        after = f"{STATES.index(last.state)}~{last.values['name']}"
        following = "?" + urlencode({"q": text, "state": state, "after": after})
    return page(
        request,
        "flows.jinja2",
        active="flows",
        rows=rows,
        counts=counts,
        total=sum(counts.values()),
        trouble=sum(counts[each] for each in TROUBLE),
        q=text,
        state=state,
        following=following,
        is_first=not request.GET.get("after"),
    )


def newest_runs(session: Session, flow_ids: list[int]) -> dict[int, list[StripRun]]:
    """Return the newest runs of flows by flow, oldest first, with one statement.

    Each flow's newest runs are read from an index, so that the length of the history does not
    matter.
    """
    found: dict[int, list[StripRun]] = {flow_id: [] for flow_id in flow_ids}
    if not flow_ids:
        return found
    params = {f"flow_{number}": flow_id for number, flow_id in enumerate(flow_ids)}
    for run in session.execute(_newest_of(len(flow_ids)), params):
        found[run.data_flow_id].append(
            StripRun(run.id, readable(run.status), readable(run.duration))
        )
    return {flow_id: sorted(runs) for flow_id, runs in found.items()}


@lru_cache(maxsize=2 * PAGE_SIZE)
def _newest_of(count: int) -> sa.CompoundSelect[Any]:
    """Select the newest runs of `count` flows: building the statement takes longer than it runs."""
    columns = DataFlowRun.data_flow_id, DataFlowRun.id, DataFlowRun.status, DataFlowRun.duration
    newest = sa.select(*columns).order_by(DataFlowRun.id.desc()).limit(STRIP_RUNS)
    parts = [
        newest.where(DataFlowRun.data_flow_id == sa.bindparam(f"flow_{number}")).subquery()
        for number in range(count)
    ]
    return sa.union_all(*map(sa.select, parts))


def state_rank(heartbeat: Heartbeat) -> sa.Case[int]:
    """Return the place of a flow's state in STATES, for a statement with its active run."""
    now = heartbeat.clock.now()
    tolerated = timedelta(seconds=BEATS_MISSED * heartbeat.settings.expected_every)
    late = sa.literal(now - tolerated, StoredTime())
    never = sa.literal(NEVER_SCHEDULED, StoredTime())
    conditions = {
        "no handler": DataFlow.handler.not_in(list(heartbeat.flows)),
        "paused": DataFlow.enabled == sa.false(),
        "failing": DataFlow.last_run_status == RunStatus.FAILED.value,
        "stale": DataFlow.is_stale(now, heartbeat.success_limits()),
        "running": DataFlowRun.id.is_not(None),
        "late": sa.and_(DataFlow.next_run_at < late, DataFlow.next_run_at > never),
        "new": DataFlow.last_run_at.is_(None),
    }
    whens = [(condition, STATES.index(state)) for state, condition in conditions.items()]
    return sa.case(*whens, else_=STATES.index("ok"))


def selected(heartbeat: Heartbeat, text: str, *columns: Any) -> sa.Select[Any]:
    """Select columns of the flows whose name contains `text`, and the rank of their state."""
    rows = with_active_run(sa.select(state_rank(heartbeat).label("state_rank"), *columns))
    if not text:
        return rows
    return rows.where(DataFlow.name.icontains(text, autoescape=True))


def _in_state(heartbeat: Heartbeat, rows: sa.Select[Any], state: str) -> sa.Select[Any]:
    return rows.where(state_rank(heartbeat) == STATES.index(state)) if state in STATES else rows


def flow_ids(heartbeat: Heartbeat, session: Session, text: str, state: str) -> list[int]:
    """Return the ids of all flows that the filters of the page select."""
    rows = _in_state(heartbeat, selected(heartbeat, _cleaned(text), DataFlow.id), state)
    return [row.id for row in session.execute(rows)]


def _cleaned(text: str) -> str:
    return text.replace("\0", "").strip()[:200]


def state_counts(heartbeat: Heartbeat, session: Session, text: str = "") -> dict[str, int]:
    """Return how many flows whose name contains `text` are in each state."""
    ranked = selected(heartbeat, text).select_from(DataFlow).subquery()
    rank = ranked.c.state_rank
    counted = session.execute(sa.select(rank, sa.func.count()).group_by(rank))
    found = {row[0]: row[1] for row in counted}
    return {state: found.get(number, 0) for number, state in enumerate(STATES)}


def _page_of_flows(
    heartbeat: Heartbeat, session: Session, text: str, state: str, after: str
) -> list[tuple[int, DataFlow]]:
    """Return the flows after a place, by state and name: one more than a page shows."""
    rank = state_rank(heartbeat)
    rows = _in_state(heartbeat, selected(heartbeat, text, DataFlow), state)
    number, _, name = after.replace("\0", "").partition("~")
    if number in map(str, range(len(STATES))):
        later = sa.and_(rank == int(number), DataFlow.name > name)
        rows = rows.where(sa.or_(rank > int(number), later))
    rows = rows.order_by("state_rank", DataFlow.name).limit(PAGE_SIZE + 1)
    return [(row[0], row[1]) for row in session.execute(rows)]


def _row(heartbeat: Heartbeat, rank: int, flow: DataFlow, runs: list[StripRun]) -> FlowRow:
    values = readable_values(flow)
    problem = problem_of(flow)
    slot = None
    with suppress(ScheduleError):
        if flow.enabled and not problem:
            now = heartbeat.clock.now()
            slot = next_slots(rule_of(heartbeat, flow), flow.slots_begin(now), now, 1)[0]
    values["name"] = values["name"] or str(flow.name)
    return FlowRow(STATES[rank], values, slot, str(problem or ""), runs)
