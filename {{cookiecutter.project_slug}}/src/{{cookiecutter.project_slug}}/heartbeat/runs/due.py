"""What is due: the queries of claims and looks.

Each is built once, since building it costs more than its answer. `query_params` fills it in.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
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
_NOW, _SOON, _AHEAD, _SENT_BEFORE = (
    bindparam(name, type_=UTCDateTime()) for name in ("now", "soon", "ahead", "sent_before")
)
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
    Obstacle(
        "handed over",
        # A time ahead of the clock was written before this was set back.
        or_(
            DataFlowRun.sent_at.is_(None),
            has_come(DataFlowRun.sent_at, _SENT_BEFORE),
            DataFlowRun.sent_at > _AHEAD,
        ),
        "Run {run} was handed to Celery {sent}, but no worker has begun it: is a worker running?",
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
_IS_EXPIRED = select(DataFlowRun.id).where(*DataFlowRun.is_expired(_NOW)).exists()
# The first question of a look, which most beats need alone: whether a flow is near its slot, and
# whether anything else may need work. It reads the first rows of some indexes, and PostgreSQL plans
# it in a third of the time that it needs for the exact question.
_GLANCE = select(
    select(DataFlow.id).where(DataFlow.enabled == true(), DataFlow.next_run_at <= _SOON).exists(),
    or_(
        select(DataFlowRun.id).where(DataFlowRun.is_active()).exists(),
        select(DataFlow.id).where(DataFlow.last_slot_at > _AHEAD).exists(),
        _LAST_BEAT.scalar_subquery() > _AHEAD,
        DataFlow.any_beyond(),
    ),
)


def _look_at(*free: ColumnElement[bool], flows_only: bool = False) -> Select[*tuple[Any, ...]]:
    due, next_slot = (part.where(*free).scalar_subquery() for part in (_COUNT_DUE, _NEXT_SLOT))
    if flows_only:
        return select(due, false(), false(), next_slot)
    pending = _COUNT_PENDING.scalar_subquery()
    return select(due + pending, _IS_EXPIRED, _IS_SET_BACK, next_slot)


_LOOK, _LOOK_AT_FLOWS = _look_at(), _look_at(flows_only=True)


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


def query_params(
    now: datetime, handlers: Iterable[str], redeliver_after: int | None = None
) -> dict[str, Any]:
    """Return the parameters of the queries, for a moment and the registered handlers.

    redeliver_after: the seconds for which a pending run that was handed over is left to its worker;
        None takes it at once.
    """
    sent_before = now + AHEAD
    if redeliver_after is not None:
        sent_before = now - timedelta(seconds=redeliver_after)
    times = {"now": now, "soon": now + SOON, "ahead": now + AHEAD, "sent_before": sent_before}
    return {**times, "handlers": list(handlers)}


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


def look(session: Session, heartbeat: Heartbeat, now: datetime, *free: ColumnElement[bool]) -> Look:
    """Return the work at `now`. A beat without work asks nothing else."""
    connection = session.connection()
    params = query_params(now, heartbeat.flows, heartbeat.redeliver_after)
    is_near, needs_more = connection.execute(_GLANCE, params).one()
    if not (is_near or needs_more):
        return Look(due=0, expired=False, ahead=False, next_slot=None)
    if free:
        statement = _look_at(*free, flows_only=not needs_more)
    else:
        statement = _LOOK if needs_more else _LOOK_AT_FLOWS
    found = Look(*connection.execute(statement, params).one())
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
