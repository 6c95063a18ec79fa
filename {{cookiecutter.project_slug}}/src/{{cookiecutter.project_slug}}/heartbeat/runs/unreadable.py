"""Rows that cannot be read, since they were written by hand.

Such a row disables its own flow, with the reason, when it is read, and stops no other flow.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import NoneType
from typing import Any, NamedTuple

from sqlalchemy import Row, Table, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..db import begin_writing, reason
from ..errors import InputError
from ..models import DataFlow, DataFlowRun, table_of
from ..models.stored import show
from ..schedules.rule import LAST_SLOT
from .due import FlowRow
from .finish import disable

# For columns by name: the types of the values that can be read.
Kinds = Mapping[str, tuple[type, ...]]

log = logging.getLogger(__name__)


def _kinds_of(table: Table) -> dict[str, tuple[type, ...]]:
    found = {}
    for column in table.columns:
        kinds = getattr(column.type, "kinds", None) or (column.type.python_type,)
        found[column.key] = (*kinds, NoneType) if column.nullable else kinds
    return found


RUN_KINDS: Kinds = _kinds_of(table_of(DataFlowRun))
FLOW_KINDS: Kinds = _kinds_of(table_of(DataFlow)) | {
    "configuration": (dict, NoneType),
    "run_interval": (object,),  # its rule says what is wrong with it
}


class Problem(NamedTuple):
    """A column that cannot be read, why, and of which run where it is not the flow's own."""

    column: str
    text: str
    of: str = ""

    def __str__(self) -> str:
        return f"column {self.column}{self.of} {self.text}"


def unreadable_columns(row: object, kinds: Kinds) -> dict[str, Any]:
    """Return the values that cannot be read of a row, or of an object of the ORM, by column."""
    values = row._asdict() if isinstance(row, Row) else vars(row)
    found = {
        name: value
        for name, value in values.items()
        if not isinstance(value, kinds.get(name, object))
    }
    slot = values.get("next_run_at")
    if isinstance(slot, datetime) and slot > LAST_SLOT:  # no schedule has it
        found["next_run_at"] = slot
    return found


def problem_of(row: Any, kinds: Kinds) -> Problem | None:
    """Return the first column that cannot be read of a row, or of an object of the ORM."""
    for name, value in unreadable_columns(row, kinds).items():
        text = f"is not valid ({show(value)}): correct it in the database, or remove the flow"
        return Problem(name, text, f" of run {row.id}" if kinds is RUN_KINDS else "")
    return None


def problem_with(flow: DataFlow, run: DataFlowRun | None) -> Problem | None:
    """Return the first column that cannot be read of a flow, or of its run that has not ended."""
    problem = problem_of(flow, FLOW_KINDS)
    return problem if problem or run is None else problem_of(run, RUN_KINDS)


def require_readable(row: DataFlow | DataFlowRun | None) -> None:
    """Raise InputError, which names the column, if there is a row that cannot be read."""
    kinds = FLOW_KINDS if isinstance(row, DataFlow) else RUN_KINDS
    if row is not None and (problem := problem_of(row, kinds)):
        raise InputError({problem.column: [f"{problem.of} {problem.text}".strip()]})


def readable_values(row: object, kinds: Kinds) -> dict[str, Any]:
    """Return the values of a row by column: None for those that cannot be read."""
    values = row._asdict() if isinstance(row, Row) else vars(row)
    return {**values, **dict.fromkeys(unreadable_columns(row, kinds))}


def keep_readable(
    session: Session, now: datetime, flows: Sequence[FlowRow], kinds: Kinds
) -> list[FlowRow]:
    """Return the rows that can be read of flows that are locked; disable the other flows.

    `kinds` are those of the first columns of the rows, in order.
    """
    expected = tuple(kinds.values())
    readable = [flow for flow in flows if all(map(isinstance, flow, expected))]
    if len(readable) < len(flows):
        for flow in flows:
            if problem := problem_of(flow, kinds):
                disable(session, flow.id, str(problem), now)
    return readable


def disable_apart(
    heartbeat: Heartbeat, flow_id: int, run_id: int | None = None, *, end_run: bool = False
) -> bool:
    """Disable a flow in a transaction of its own, if it or its run still cannot be read.

    Return whether that was done: not where it would have to wait. A later reader does it then.
    """
    mine = select(DataFlow).where(DataFlow.id == flow_id).with_for_update(skip_locked=True)
    try:
        with heartbeat.session() as session:
            if not begin_writing(session, wait=False):
                return False
            flow = session.scalars(mine).one_or_none()
            run = session.get(DataFlowRun, run_id) if run_id else None
            problem = flow and problem_with(flow, run if run and run.active else None)
            if problem:
                ended = run_id if end_run else None
                disable(session, flow_id, str(problem), heartbeat.clock.now(), ended)
            return bool(problem)
    except DBAPIError as error:
        log.warning("flow %d cannot be read, nor disabled now: %s", flow_id, reason(error))
        return False
