"""What is due: the questions that a claim and a look ask the database.

Each is built once, with `asked_at` as its parameters: building it would cost more than its answer.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, bindparam, case, false, func, or_, select, true
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..errors import DeclarationError
from ..models import AT_ONCE, DataFlow, DataFlowRun, RunStatus, Trigger
from ..models.data_flow import AHEAD, SOON
from ..models.meta import UTCDateTime
from ..schedules.every import Due
from ..schedules.rule import due, slot_before

# What a claim reads of a flow.
FlowRow = Row[*tuple[Any, ...]]
_NOW, _SOON, _AHEAD = (bindparam(name, type_=UTCDateTime()) for name in ("now", "soon", "ahead"))
# In a CASE, PostgreSQL takes half of the flows for known. Before its first statistics it would take
# one in a hundred, and so sort all that are due at each claim, where the index has them in order.
_KNOWN = DataFlow.handler.in_(bindparam("handlers", expanding=True))
_IS_KNOWN = case((_KNOWN, true()), else_=false())

# Flows that are due and whose handler is registered here. This stands in the statement itself,
# before its limit: a row that cannot run must not take the place of one that can.
IS_DUE = (*DataFlow.is_due(_NOW, _SOON), _IS_KNOWN)
# Flows whose last slot lies ahead of the clock, which was set back then.
IS_AHEAD = DataFlow.is_ahead(_AHEAD)
# Runs that wait to be claimed, in a join with their flows. One that was asked for by hand goes
# ahead on a disabled flow too, and so does a backfill's.
IS_PENDING = (
    DataFlowRun.status == RunStatus.PENDING.value,
    or_(DataFlowRun.not_before.is_(None), DataFlowRun.not_before <= _NOW),
    _IS_KNOWN,
    or_(
        DataFlow.enabled == true(),
        DataFlowRun.trigger.in_((Trigger.MANUAL.value, Trigger.BACKFILL.value)),
    ),
)

_COUNT_DUE = select(func.count()).select_from(DataFlow).where(*IS_DUE)
_REST = (
    select(DataFlowRun.id).join(DataFlowRun.data_flow).where(*IS_PENDING).exists(),
    select(DataFlowRun.id).where(*DataFlowRun.is_expired(_NOW)).exists(),
    select(DataFlow.id).where(*IS_AHEAD).exists(),
)
_LOOK = select(_COUNT_DUE.scalar_subquery(), *_REST)


class Look(NamedTuple):
    """What there is to do: how many flows are due, if a run is pending, and if one is lost.

    `ahead` tells that the clock was set back.
    """

    due: int
    pending: bool
    expired: bool
    ahead: bool


def asked_at(now: datetime, handlers: Iterable[str]) -> dict[str, Any]:
    """Return the parameters of the questions: a moment, and the handlers that are known here."""
    return {"now": now, "soon": now + SOON, "ahead": now + AHEAD, "handlers": list(handlers)}


def free_of(heartbeat: Heartbeat, answers: Mapping[int, bool]) -> tuple[ColumnElement[bool], ...]:
    """Return what a flow must fulfil to be claimed besides being due: nothing, as a rule.

    answers: of flows that were asked, or had their share, in this beat: may they run, by id?
    """
    held = [flow_id for flow_id, may_run in answers.items() if not may_run]
    return (*heartbeat.conditions, DataFlow.id.not_in(held)) if held else heartbeat.conditions


def look(
    session: Session, handlers: Iterable[str], now: datetime, *free: ColumnElement[bool]
) -> Look:
    """Return what there is to do at `now`: all that a beat asks when there is nothing."""
    statement = select(_COUNT_DUE.where(*free).scalar_subquery(), *_REST) if free else _LOOK
    return Look(*session.connection().execute(statement, asked_at(now, handlers)).one())


def due_of(heartbeat: Heartbeat, flow: FlowRow, now: datetime) -> Due:
    """Return which slot of a flow is due at `now`: see `schedules/rule.py`."""
    rule = heartbeat.flows[flow.handler].rule_of(flow)
    begin = now if flow.next_run_at == AT_ONCE else flow.next_run_at
    return due(rule, begin, now, first=flow.last_slot_at is None)


def window_of(
    heartbeat: Heartbeat, flow: FlowRow, slot: datetime | None, now: datetime
) -> tuple[datetime, datetime]:
    """Return from where to where a run that is claimed `now` works.

    It begins where the last successful one ended, so that windows meet whatever failed between;
    the first one begins an interval, or a slot of cron, before its own. It ends at the slot, or now
    where that is earlier; never before it begins.
    """
    start = end = min(slot or now, now)
    known = heartbeat.flows[flow.handler]
    with suppress(DeclarationError):  # what has no schedule that can be read is run by hand alone
        start = flow.window_starts_at or slot_before(known.rule_of(flow), slot or now)
    return start, max(start, end)
