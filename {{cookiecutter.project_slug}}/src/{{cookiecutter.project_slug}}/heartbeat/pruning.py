"""Optional: removes history that is too old, a small step a beat.

A step passes over what somebody else has locked, and locks for some milliseconds what nobody waits
for: ended runs, beats, and flows that none can run. Windows are safe: the flows' rows keep them.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from pyramid.config import Configurator
from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session, contains_eager

from .core import Heartbeat
from .db import begin_writing
from .errors import Cancelled
from .models import DataFlow, DataFlowBeat, DataFlowRun, RunStatus

# How many flows a step looks at, and how many rows of each table it removes, at most.
FLOWS = 100
ROWS = 500
# How soon a process begins with the first flow again, in seconds.
PAUSE = 300.0
ENDED = (RunStatus.SUCCESS.value, RunStatus.FAILED.value)


@dataclass
class Walk:
    """A walk over all flows: the id it goes on after, and how many rows it has removed."""

    after: int = 0
    more: bool = True
    runs: int = 0
    beats: int = 0


def includeme(config: Configurator) -> None:
    """Let each beat do a step, until all flows have been looked at; and again after a pause."""
    walk, next_at = Walk(more=False), 0.0

    def chore(heartbeat: Heartbeat) -> None:
        nonlocal walk, next_at
        now = heartbeat.clock.monotonic()
        if not walk.more and now >= next_at:
            walk, next_at = Walk(), now + PAUSE
        if walk.more:
            prune(heartbeat, walk, wait=False)

    config.registry["heartbeat"].chores.append(chore)


def prune(heartbeat: Heartbeat, walk: Walk, *, wait: bool) -> None:
    """Do the next step of `walk`, in one transaction.

    `wait` for SQLite's write lock; otherwise a step that meets it does nothing, and comes again.
    """
    now = heartbeat.clock.now()
    too_old = now - timedelta(days=heartbeat.settings.keep_days)
    columns = (DataFlow.id, DataFlow.handler, DataFlow.last_run_at)
    next_flows = select(*columns).where(DataFlow.id > walk.after).order_by(DataFlow.id)
    old_beats = select(DataFlowBeat.id).where(DataFlowBeat.received_at < too_old)
    after, runs, removed_runs, removed_beats = walk.after, list[int](), 0, 0
    with heartbeat.session() as session:
        flows = session.execute(next_flows.limit(FLOWS)).all()
        for after, _handler, last_run_at in flows:
            old_runs = _old_runs(after, last_run_at, heartbeat.settings.keep_runs, too_old)
            runs += session.scalars(old_runs.limit(ROWS - len(runs)))
            if len(runs) == ROWS:
                break
        beats = [*session.scalars(old_beats.order_by(DataFlowBeat.received_at).limit(ROWS))]
        unknown = [flow.id for flow in flows if flow.handler not in heartbeat.flows]
        forgotten = (
            DataFlowRun.pending()
            .join(DataFlowRun.data_flow)
            .options(contains_eager(DataFlowRun.data_flow).defer(DataFlow.configuration))
            .where(DataFlow.id.in_(unknown), DataFlowRun.created_at < too_old)
            .execution_options(populate_existing=True)
        )
        if runs or beats or session.scalars(forgotten).first():
            if not begin_writing(session, wait=wait):
                return
            for run in session.scalars(forgotten.with_for_update(skip_locked=True)):
                run.fail(Cancelled(f"no process knows the handler {run.data_flow.handler!r}"), now)
                run.data_flow.last_run_at, run.data_flow.last_run_status = now, run.status
            removed_runs = _remove(session, DataFlowRun, runs)
            removed_beats = _remove(session, DataFlowBeat, beats)
    walk.runs += removed_runs
    walk.beats += removed_beats
    full = len(runs) == ROWS
    walk.more = full or len(flows) == FLOWS or (len(beats) == ROWS and removed_beats > 0)
    # A flow that filled the step may have more, unless another process is removing it all.
    walk.after = after - 1 if full and removed_runs else after


def _old_runs(
    flow_id: int, last_run_at: datetime | None, keep_runs: int, too_old: datetime
) -> Select[int]:
    """Select the runs of a flow that are to go."""
    runs = select(DataFlowRun.id).where(DataFlowRun.data_flow_id == flow_id)
    # The last run stays, even if the clock was ahead when those before it ended.
    old = runs.where(DataFlowRun.ended_at < too_old, DataFlowRun.ended_at != last_run_at)
    newest_first = runs.order_by(DataFlowRun.ended_at.desc(), DataFlowRun.id.desc())
    for status in ENDED:
        kept = newest_first.where(DataFlowRun.status == status).limit(keep_runs).subquery()
        old = old.where(DataFlowRun.id.not_in(select(kept.c.id)))
    return old.where(DataFlowRun.status.in_(ENDED))


def _remove(session: Session, table: type[DataFlowRun | DataFlowBeat], ids: list[int]) -> int:
    """Delete those rows that nobody else has locked; return how many."""
    rows = select(table.id).where(table.id.in_(ids)).order_by(table.id)
    free = session.scalars(rows.with_for_update(skip_locked=True)).all()
    session.execute(delete(table).where(table.id.in_(free)))
    return len(free)
