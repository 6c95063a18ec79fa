"""What is due: the questions that a claim and a look ask the database."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement, func, or_, select, true
from sqlalchemy.orm import Session

from ..models import DataFlow, DataFlowRun, RunStatus, Trigger


def due_flows(handlers: Collection[str], now: datetime) -> list[ColumnElement[bool]]:
    """Return the conditions of flows that are due and whose handler is registered here.

    They stand in the statement itself, before its limit: a row that cannot run must not take the
    place of one that can.
    """
    return [
        *DataFlow.is_due(now),
        DataFlow.handler.in_(handlers),
        DataFlow.run_interval.is_not(None),
    ]


def pending_runs(handlers: Collection[str], now: datetime) -> list[ColumnElement[bool]]:
    """Return the conditions of runs that wait to be claimed, for a join with their flows.

    A run asked for by hand goes ahead on a disabled flow too.
    """
    return [
        DataFlowRun.status == RunStatus.PENDING.value,
        or_(DataFlowRun.not_before.is_(None), DataFlowRun.not_before <= now),
        DataFlow.handler.in_(handlers),
        or_(DataFlow.enabled == true(), DataFlowRun.trigger == Trigger.MANUAL.value),
    ]


def count_due(session: Session, handlers: Collection[str], now: datetime) -> int:
    """Return how many flows are due at `now`."""
    statement = select(func.count()).select_from(DataFlow).where(*due_flows(handlers, now))
    return session.scalars(statement).one()


def is_any_ahead(session: Session, now: datetime) -> bool:
    """Tell whether the last slot of a flow lies ahead of the clock, which was set back then."""
    statement = select(DataFlow.id).where(*DataFlow.is_ahead(now)).limit(1)
    return session.scalars(statement).first() is not None


def is_run_pending(session: Session, handlers: Collection[str], now: datetime) -> bool:
    """Tell whether a run waits that could be claimed at `now`."""
    statement = (
        select(DataFlowRun.id)
        .join(DataFlowRun.data_flow)
        .where(*pending_runs(handlers, now))
        .limit(1)
    )
    return session.scalars(statement).first() is not None
