"""Optional: removes history that is too old, a small step a beat.

A step passes over what somebody else has locked, and locks for some milliseconds what nobody waits
for: ended runs, beats, and flows that none can run. Windows are safe: the flows' rows keep them.
"""

import threading
from datetime import datetime, timedelta
from typing import NamedTuple

import click
from pyramid.config import Configurator
from sqlalchemy import ColumnElement, Select, SQLColumnExpression, delete, false, select
from sqlalchemy.orm import Session, contains_eager

from ...core import Heartbeat
from ...db import begin_writing
from ...db.stored import readable
from ...models import DataFlow, DataFlowBeat, DataFlowRun, RunStatus
from ...runs.finish import cancel

# How many flows a step looks at, and how many rows of each table it removes, at most.
FLOWS = 100
ROWS = 500
# How soon a process begins with the first flow again, in seconds.
PAUSE = 600.0
ENDED = (RunStatus.SUCCESS.value, RunStatus.FAILED.value)


class PruneProgress(NamedTuple):
    """A progress over all flows: the id it goes on after, if there is more, and what it removed."""

    after: int = 0
    more: bool = True
    runs: int = 0
    beats: int = 0


def includeme(config: Configurator) -> None:
    """Prune step by step after each beat until all flows were visited; again after a pause."""
    progress, next_at, walking = PruneProgress(more=False), 0.0, threading.Lock()

    def chore(heartbeat: Heartbeat) -> None:
        nonlocal progress, next_at
        # One beat at a time: each of two would believe of the other's rows that they are seen to.
        if not walking.acquire(blocking=False):
            return
        try:
            now = heartbeat.clock.monotonic()
            if not progress.more and now >= next_at:
                progress, next_at = PruneProgress(), now + PAUSE
            if progress.more:
                progress = prune(heartbeat, progress, wait=False)
        finally:
            walking.release()

    config.registry["heartbeat"].chores.append(chore)


def commands() -> list[click.Command]:
    """Return the command that prunes at once."""
    from . import command

    return [command.prune]


def prune(heartbeat: Heartbeat, progress: PruneProgress, *, wait: bool) -> PruneProgress:
    """Do the next step of `progress`, in one short transaction; return how far it has come then.

    `wait` for SQLite's write lock; otherwise a step that meets it does nothing, and comes again.
    """
    return heartbeat.transact(lambda session: _step(session, heartbeat, progress, wait=wait))


def _step(
    session: Session, heartbeat: Heartbeat, progress: PruneProgress, *, wait: bool
) -> PruneProgress:
    now, keep_runs = heartbeat.clock.now(), heartbeat.settings.keep_runs
    too_old = now - timedelta(days=heartbeat.settings.keep_days)
    columns = (DataFlow.id, DataFlow.handler, DataFlow.last_run_at, _has_old(keep_runs, too_old))
    next_flows = select(*columns).where(DataFlow.id > progress.after).order_by(DataFlow.id)
    flows = session.execute(next_flows.limit(FLOWS)).all()
    after, runs, removed_runs, removed_beats = progress.after, list[int](), 0, 0
    for after, _handler, last_run_at, has_old in flows:
        if has_old:
            old_runs = _old_runs(after, keep_runs, too_old)
            # The last run stays, even if the clock was ahead when those before it ended.
            old_runs = old_runs.where(DataFlowRun.ended_at != readable(last_run_at))
            runs += session.scalars(old_runs.limit(ROWS - len(runs)))
        if len(runs) == ROWS:
            break
    old_beats = select(DataFlowBeat.id).where(DataFlowBeat.received_at < too_old)
    beats = [*session.scalars(old_beats.order_by(DataFlowBeat.received_at).limit(ROWS))]
    unknown = [flow.id for flow in flows if flow.handler not in heartbeat.flows]
    if runs or beats or unknown:
        if not begin_writing(session, wait=wait):
            return progress
        waiting = DataFlowRun.pending().where(DataFlowRun.created_at < too_old)
        forgotten = waiting.join(DataFlowRun.data_flow).where(DataFlow.id.in_(unknown))
        with_flow = contains_eager(DataFlowRun.data_flow)
        for run in session.scalars(forgotten.options(with_flow).with_for_update(skip_locked=True)):
            cancel(session, run, f"no process knows the handler {run.data_flow.handler!r}", now)
        removed_runs = _remove(session, DataFlowRun, runs)
        removed_beats = _remove(session, DataFlowBeat, beats)
    full = len(runs) == ROWS
    # Who finds what others are just removing leaves the rest of it to them, too.
    more = full or len(flows) == FLOWS or (len(beats) == ROWS and removed_beats > 0)
    after -= full and removed_runs > 0
    return PruneProgress(after, more, progress.runs + removed_runs, progress.beats + removed_beats)


def _ended(flow_id: SQLColumnExpression[int] | int, status: str) -> Select[int]:
    """Select the runs of a flow that ended so, the last one first."""
    mine = DataFlowRun.data_flow_id == flow_id, DataFlowRun.status == status
    runs = select(DataFlowRun.id).where(*mine, DataFlowRun.ended_at.is_not(None))
    return runs.order_by(DataFlowRun.ended_at.desc(), DataFlowRun.id.desc())


def _has_old(keep_runs: int, too_old: datetime) -> ColumnElement[bool]:
    """Return whether a flow has runs to remove. Cheap enough for many flows."""
    answer: ColumnElement[bool] = false()
    for status in ENDED:
        runs = _ended(DataFlow.id, status)
        surplus = runs.offset(keep_runs).limit(1).scalar_subquery()
        # Its first end, not whether one is too old: for that, MariaDB reads all its young runs.
        ends = runs.with_only_columns(DataFlowRun.ended_at).order_by(None)
        first_end = ends.order_by(DataFlowRun.ended_at).limit(1).scalar_subquery()
        answer |= (first_end < too_old) & surplus.is_not(None)
    return answer


def _old_runs(flow_id: int, keep_runs: int, too_old: datetime) -> Select[int]:
    """Select the runs of a flow that are too old to keep."""
    mine = DataFlowRun.data_flow_id == flow_id, DataFlowRun.status.in_(ENDED)
    old = select(DataFlowRun.id).where(*mine, DataFlowRun.ended_at < too_old)
    for status in ENDED:
        kept = _ended(flow_id, status).limit(keep_runs).subquery()
        old = old.where(DataFlowRun.id.not_in(select(kept.c.id)))
    return old


def _remove(session: Session, table: type[DataFlowRun | DataFlowBeat], ids: list[int]) -> int:
    """Delete those rows that nobody else has locked; return how many."""
    rows = select(table.id).where(table.id.in_(ids)).order_by(table.id)
    free = session.scalars(rows.with_for_update(skip_locked=True)).all()
    session.execute(delete(table).where(table.id.in_(free)))
    return len(free)
