"""Lists of runs and beats, newest first, one statement for a page whatever the number of rows.

A page is continued with `before`, the id of its last row: an index leads to the next row, where an
offset would read all rows before it. Rows that cannot be read are listed, too.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, Select, select
from sqlalchemy.orm import Session

from ...db.stored import show
from ...errors import UnknownFlowError
from ...members import RUNS, RunMembers, run_members
from ...models import DataFlow, DataFlowBeat, DataFlowRun, table_of
from ...runs.unreadable import readable_values
from .members import DEFAULT_LIMIT, StoredBeat

_BEAT = table_of(DataFlowBeat)


def list_runs(session: Session, *, limit: int = DEFAULT_LIMIT, **filters: Any) -> list[RunMembers]:
    """Return the newest runs that the `filters` of `run_rows` select. Raises UnknownFlowError."""
    return [run_members(row) for row in run_rows(session, RUNS, limit=limit, **filters)]


def run_rows(
    session: Session,
    runs: Select[Any],
    *,
    limit: int,
    flow: str | None = None,
    status: str | None = None,
    before: int | None = None,
) -> Sequence[Row[Any]]:
    """Return the newest runs, below the id `before`, with the columns that `runs` selects.

    Raises UnknownFlowError.
    """
    ids = _page(select(DataFlowRun.id), DataFlowRun.id, limit, before)
    if flow is not None:
        if (flow_id := session.scalar(select(DataFlow.id).where(DataFlow.name == flow))) is None:
            raise UnknownFlowError(flow)
        ids = ids.where(DataFlowRun.data_flow_id == flow_id)
    if status is not None:
        # As a plain text: psycopg would send the name of a member of RunStatus.
        ids = ids.where(DataFlowRun.status == str(status))
    # The limit applies before the join: otherwise a database may join all runs and sort them.
    rows = runs.join(page := ids.subquery(), page.c.id == DataFlowRun.id)
    return session.execute(rows.order_by(DataFlowRun.id.desc())).all()


def list_beats(
    session: Session, *, limit: int = DEFAULT_LIMIT, before: int | None = None
) -> list[StoredBeat]:
    """Return the newest beats, below the id `before`."""
    rows = session.execute(_page(select(_BEAT), _BEAT.c.id, limit, before))
    return [StoredBeat(**readable_values(row) | {"source": show_text(row.source)}) for row in rows]


def show_text(value: Any) -> str:
    """Return a stored text, or what can be shown of one that cannot be read."""
    return value if isinstance(value, str) else show(value)


def _page(statement: Select[Any], column: Any, limit: int, before: int | None) -> Select[Any]:
    page = statement.order_by(column.desc()).limit(limit)
    return page if before is None else page.where(column < before)
