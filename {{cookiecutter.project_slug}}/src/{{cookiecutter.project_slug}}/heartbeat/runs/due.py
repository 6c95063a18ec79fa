"""What is due: the queries of claims and looks.

Each is built once, since building it costs more than its answer. `query_params` fills it in.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    bindparam,
    case,
    false,
    func,
    not_,
    null,
    or_,
    select,
    true,
)
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..db.expressions import has_come
from ..db.stored import readable
from ..db.types import UTCDateTime
from ..errors import ScheduleError
from ..models import (
    NEVER_SCHEDULED,
    DataFlow,
    DataFlowBeat,
    DataFlowRun,
    Obstacle,
    RunStatus,
    Trigger,
)
from ..models.data_flow import AHEAD, SOON
from ..schedules.between import read_zone
from ..schedules.every import Due
from ..schedules.rule import due, slot_before

# What a claim reads of a flow.
FlowRow = Row[*tuple[Any, ...]]
_NOW, _SOON, _AHEAD = (bindparam(name, type_=UTCDateTime()) for name in ("now", "soon", "ahead"))
# PostgreSQL estimates that a CASE is true for half of the rows. For a plain IN without statistics
# it estimates one in a hundred, and would sort all due flows at each claim without the index.
_KNOWN = DataFlow.handler.in_(bindparam("handlers", expanding=True))
_IS_KNOWN = case((_KNOWN, true()), else_=false())

UNKNOWN_HANDLER = Obstacle(
    "unknown handler",
    _IS_KNOWN,
    "Its handler {handler!r} is not registered: no code in flows/ declares it.",
)
# What keeps a flow from a run of its next slot, gravest first; optional modules add to these.
SLOT_OBSTACLES = (UNKNOWN_HANDLER, *DataFlow.obstacles(_NOW))
# What keeps a flow's active run from starting, for a join of both. A manual run starts on a
# disabled flow too, and so does a backfill's.
RUN_OBSTACLES = (
    Obstacle(
        "running",
        DataFlowRun.status == RunStatus.PENDING.value,
        "Run {run} has been running since {started_at}.",
    ),
    UNKNOWN_HANDLER,
    Obstacle(
        "disabled",
        or_(
            DataFlow.enabled == true(),
            DataFlowRun.trigger.in_((Trigger.MANUAL.value, Trigger.BACKFILL.value)),
        ),
        "It is disabled: {disabled_reason}.",
    ),
    Obstacle(
        "retry waits",
        or_(DataFlowRun.not_before.is_(None), has_come(DataFlowRun.not_before, _NOW)),
        "Retry {retry} of {retries} waits until {not_before}.",
    ),
)

# Flows that are due, and runs that wait to be claimed. All conditions are in the statements, so
# that a LIMIT counts only what can run.
IS_DUE = tuple(obstacle.absent for obstacle in SLOT_OBSTACLES)
IS_PENDING = tuple(obstacle.absent for obstacle in RUN_OBSTACLES)
IS_DUE_SOON = (*DataFlow.is_due_soon(_NOW, _SOON), _IS_KNOWN)
# Whether anything lies ahead of the clock, which was set back then: see `set_back.py`. The slots in
# order, so that PostgreSQL takes their index also before its first statistics; the beats by id, so
# that the newest is the last one that came.
_AHEAD_SLOT = select(DataFlow.last_slot_at).where(*DataFlow.is_ahead(_AHEAD), _IS_KNOWN)
_AHEAD_SLOT = _AHEAD_SLOT.order_by(DataFlow.last_slot_at.desc()).limit(1)
_LAST_BEAT = select(DataFlowBeat.received_at).order_by(DataFlowBeat.id.desc()).limit(1)
_IS_SET_BACK = or_(
    _AHEAD_SLOT.scalar_subquery().is_not(None),
    select(DataFlowRun.id).where(*DataFlowRun.is_ahead(_AHEAD)).exists(),
    _LAST_BEAT.scalar_subquery() > _AHEAD,
    DataFlow.any_beyond(_IS_KNOWN),
)
_COUNT_DUE = select(func.count()).select_from(DataFlow).where(*IS_DUE)
# A flow has one active run at most, and none while it is due.
_COUNT_PENDING = select(func.count(DataFlowRun.id)).join(DataFlowRun.data_flow).where(*IS_PENDING)
_NEXT_SLOT = select(func.min(DataFlow.next_run_at)).where(*IS_DUE_SOON)
_REST = (
    select(DataFlowRun.id).where(*DataFlowRun.is_expired(_NOW)).exists(),
    _IS_SET_BACK,
)


def _look_at(*free: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    due, next_slot = (part.where(*free).scalar_subquery() for part in (_COUNT_DUE, _NEXT_SLOT))
    return select(due + _COUNT_PENDING.scalar_subquery(), *_REST, next_slot)


_LOOK = _look_at()


class Look(NamedTuple):
    """The work for a beat: how many flows are due or have a run to start, and if a run is lost.

    `ahead`: the clock was set back. `next_slot` is the next one to come, if this is only
    a moment too early for it.
    """

    due: int
    expired: bool
    ahead: bool
    next_slot: datetime | None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do now."""
        return not (self.due or self.expired or self.ahead)


def query_params(now: datetime, handlers: Iterable[str]) -> dict[str, Any]:
    """Return the parameters of the queries, for a moment and the registered handlers."""
    return {"now": now, "soon": now + SOON, "ahead": now + AHEAD, "handlers": list(handlers)}


def eligibility_filters(
    heartbeat: Heartbeat, verdicts: Mapping[int, bool]
) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for claiming a flow, besides being due: usually none.

    verdicts: whether a flow may run, by id, for those whose conditions were checked in this beat,
        or which have caught up enough in it.
    """
    filters = tuple(obstacle.absent for obstacle in heartbeat.obstacles)
    held = [flow_id for flow_id, may_run in verdicts.items() if not may_run]
    return (*filters, DataFlow.id.not_in(held)) if held else filters


def first_obstacle(heartbeat: Heartbeat) -> ColumnElement[str | None]:
    """Return SQL for the name of the gravest obstacle, in a join of flows with active runs."""
    of_run = case(*_named(RUN_OBSTACLES), else_=null())
    of_slot = case(*_named((*SLOT_OBSTACLES, *heartbeat.obstacles)), else_=null())
    return case((DataFlowRun.id.is_not(None), of_run), else_=of_slot)


def _named(obstacles: Iterable[Obstacle]) -> list[tuple[ColumnElement[bool], str]]:
    return [(not_(obstacle.absent), obstacle.name) for obstacle in obstacles]


def look(
    session: Session, handlers: Iterable[str], now: datetime, *free: ColumnElement[bool]
) -> Look:
    """Return the work at `now`. A beat without work asks nothing else."""
    statement = _look_at(*free) if free else _LOOK
    found = Look(*session.connection().execute(statement, query_params(now, handlers)).one())
    return found._replace(next_slot=readable(found.next_slot))


def due_of(heartbeat: Heartbeat, flow: FlowRow, now: datetime) -> Due:
    """Return which slot of a flow is due at `now`: see `schedules/rule.py`.

    Raises ScheduleError for a schedule or a zone that is invalid: the row was changed by hand.
    """
    read_zone(flow.timezone)
    rule = heartbeat.flows[flow.handler].rule_of(flow)
    begin = now if flow.next_run_at <= NEVER_SCHEDULED else flow.next_run_at
    return due(rule, begin, now, first=flow.last_slot_at is None)


def window_of(
    heartbeat: Heartbeat, flow: FlowRow, slot: datetime | None, now: datetime
) -> tuple[datetime, datetime]:
    """Return the window of a run that is claimed `now`.

    It begins where the last successful one ended, so that windows meet whatever failed between;
    the first one begins an interval, or a slot of cron, before its own. It ends at the slot, or now
    where that is earlier; never before it begins.
    """
    start = end = min(slot or now, now)
    known = heartbeat.flows[flow.handler]
    with suppress(ScheduleError):  # without a readable schedule it only runs manually
        start = flow.window_starts_at or slot_before(known.rule_of(flow), slot or now)
    return start, max(start, end)
