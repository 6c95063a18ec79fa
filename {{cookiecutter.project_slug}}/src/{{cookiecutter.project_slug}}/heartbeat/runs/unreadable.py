"""Unreadable rows, which were written by hand.

When such a row is read, its flow is disabled with the reason. Other flows are not affected.
"""

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Row, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..db import begin_writing, reason
from ..db.stored import Unreadable, readable
from ..errors import InputError
from ..models import DataFlow, DataFlowRun
from .due import FlowRow
from .finish import disable

log = logging.getLogger(__name__)


class Problem(NamedTuple):
    """An unreadable column and the reason; `of` names the run, if it is not the flow's column."""

    column: str
    text: str
    of: str = ""

    def __str__(self) -> str:
        return f"column {self.column}{self.of} {self.text}"


def unreadable_values(row: object) -> dict[str, Unreadable]:
    """Return the unreadable values of a row, or of an object of the ORM, by column."""
    return {key: each for key, each in _values_of(row).items() if isinstance(each, Unreadable)}


def readable_values(row: object) -> dict[str, Any]:
    """Return the values of a row by column: None for those that cannot be read."""
    return {name: readable(value) for name, value in _values_of(row).items()}


def _values_of(row: object) -> dict[str, Any]:
    return row._asdict() if isinstance(row, Row) else vars(row)


def problem_of(*rows: Any) -> Problem | None:
    """Return the first unreadable column of rows or objects of the ORM; each may be None."""
    for row in filter(None, rows):
        for name, value in unreadable_values(row).items():
            text = f"is not valid ({value}): correct it in the database, or remove the flow"
            return Problem(name, text, f" of run {row.id}" if hasattr(row, "data_flow_id") else "")
    return None


def require_readable(row: DataFlow | DataFlowRun | None) -> None:
    """Raise InputError, which names the column, if a row is unreadable; None is not."""
    if problem := problem_of(row):
        raise InputError({problem.column: [f"{problem.of} {problem.text}".strip()]})


def keep_readable(session: Session, now: datetime, flows: Sequence[FlowRow]) -> list[FlowRow]:
    """Return the readable rows of locked flows; disable the other flows."""
    kept = list[FlowRow]()
    for flow in flows:
        if Unreadable in map(type, flow):
            disable(session, flow.id, str(problem_of(flow)), now)
        else:
            kept.append(flow)
    return kept


def disable_apart(
    heartbeat: Heartbeat, flow_id: int, run_id: int | None = None, *, end_run: bool = False
) -> bool:
    """Disable a flow in a transaction of its own, if it or its run is still unreadable.

    Return whether it was disabled. A locked row is skipped, and left to a later reader.
    """
    mine = select(DataFlow).where(DataFlow.id == flow_id).with_for_update(skip_locked=True)
    try:
        with heartbeat.session() as session:
            if not begin_writing(session, wait=False):
                return False
            flow = session.scalars(mine).one_or_none()
            run = session.get(DataFlowRun, run_id) if run_id else None
            problem = flow and problem_of(flow, run if run and run.active else None)
            if problem:
                ended = run_id if end_run else None
                disable(session, flow_id, str(problem), heartbeat.clock.now(), ended)
            return bool(problem)
    except DBAPIError as error:
        log.warning("flow %d cannot be read, nor disabled now: %s", flow_id, reason(error))
        return False
