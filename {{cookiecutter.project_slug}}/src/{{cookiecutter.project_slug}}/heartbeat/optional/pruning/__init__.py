"""Optional: removes history that is too old, a small step with each beat.

A step skips locked rows. For some milliseconds, it locks rows that no other process waits for:
ended runs, beats, and flows that cannot run. No window is lost: the rows of flows keep them.
"""

import logging
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
# Seconds between two passes of a process over all flows.
PAUSE = 600.0
ENDED = (RunStatus.SUCCESS.value, RunStatus.FAILED.value)


log = logging.getLogger(__name__)


class PruneProgress(NamedTuple):
    """How far a pass over all flows has come, and how many rows it has removed.

    after: the id of the flow that it continues after. more: whether there is more to do.
    """

    after: int = 0
    more: bool = True
    runs: int = 0
    beats: int = 0


def includeme(config: Configurator) -> None:
    """Prune step by step after each beat until all flows were visited; again after a pause."""
    progress = PruneProgress(more=False)
    next_at = 0.0
    pruning_lock = threading.Lock()

    def chore(heartbeat: Heartbeat) -> None:
        nonlocal progress, next_at
        # One beat at a time: two would skip each other's rows as if these were already removed.
        if not pruning_lock.acquire(blocking=False):
            return
        try:
            now = heartbeat.clock.monotonic()
            if not progress.more and now >= next_at:
                progress = PruneProgress()
                next_at = now + PAUSE
            if progress.more:
                progress = prune(heartbeat, progress, wait=False)
                if not progress.more and (progress.runs or progress.beats):
                    message = "pruning removed old history: %d runs and %d beats"
                    log.info(message, progress.runs, progress.beats)
        finally:
            pruning_lock.release()

    config.registry["heartbeat"].chores.append(chore)


def commands() -> list[click.Command]:
    """Return the command that prunes at once."""
    from . import command

    return [command.prune]


def prune(heartbeat: Heartbeat, progress: PruneProgress, *, wait: bool) -> PruneProgress:
    """Do the next step of a pass, in one short transaction; return the progress after it.

    If `wait` is false and SQLite's write lock is taken, the step does nothing and is repeated.
    """
    return heartbeat.transact(lambda session: _step(session, heartbeat, progress, wait=wait))


def _step(
    session: Session, heartbeat: Heartbeat, progress: PruneProgress, *, wait: bool
) -> PruneProgress:
    now = heartbeat.clock.now()
    keep_runs = heartbeat.settings.keep_runs
    too_old = now - timedelta(days=heartbeat.settings.keep_days)
    columns = (DataFlow.id, DataFlow.handler, DataFlow.last_run_at, _has_old(keep_runs, too_old))
    next_flows = select(*columns).where(DataFlow.id > progress.after).order_by(DataFlow.id)
    flows = session.execute(next_flows.limit(FLOWS)).all()
    after = progress.after
    runs: list[int] = []
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
    if not (runs or beats or unknown):
        return progress._replace(after=after, more=len(flows) == FLOWS)
    if not begin_writing(session, wait=wait):
        return progress
    _cancel_forgotten(session, unknown, too_old, now)
    removed_runs = _remove(session, DataFlowRun, runs)
    removed_beats = _remove(session, DataFlowBeat, beats)
    # Where another process is removing the same rows, it removes the rest of them, too.
    more_beats = len(beats) == ROWS and removed_beats > 0
    more_flows = len(runs) == ROWS or len(flows) == FLOWS
    if len(runs) == ROWS and removed_runs > 0:
        after -= 1  # this flow may have more of them
    return PruneProgress(
        after,
        more_flows or more_beats,
        progress.runs + removed_runs,
        progress.beats + removed_beats,
    )


def _cancel_forgotten(
    session: Session, flow_ids: list[int], too_old: datetime, now: datetime
) -> None:
    """End the old pending runs of flows whose handler this process does not know."""
    waiting = DataFlowRun.pending().where(DataFlowRun.created_at < too_old)
    forgotten = waiting.join(DataFlowRun.data_flow).where(DataFlow.id.in_(flow_ids))
    with_flow = contains_eager(DataFlowRun.data_flow)
    for run in session.scalars(forgotten.options(with_flow).with_for_update(skip_locked=True)):
        cancel(session, [run], f"no process knows the handler {run.data_flow.handler!r}", now)


def _ended(flow_id: SQLColumnExpression[int] | int, status: str) -> Select[int]:
    """Select the ended runs of a flow with this status, the last one first."""
    mine = DataFlowRun.data_flow_id == flow_id, DataFlowRun.status == status
    runs = select(DataFlowRun.id).where(*mine, DataFlowRun.ended_at.is_not(None))
    return runs.order_by(DataFlowRun.ended_at.desc(), DataFlowRun.id.desc())


def _has_old(keep_runs: int, too_old: datetime) -> ColumnElement[bool]:
    """Return the condition that a flow has runs to remove. It is cheap enough for many flows."""
    answer: ColumnElement[bool] = false()
    for status in ENDED:
        runs = _ended(DataFlow.id, status)
        surplus = runs.offset(keep_runs).limit(1).scalar_subquery()
        # Compares the first end: to look for an old run, MariaDB would read all newer ones.
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
    """Delete those of the rows that are not locked; return how many."""
    rows = select(table.id).where(table.id.in_(ids)).order_by(table.id)
    free = session.scalars(rows.with_for_update(skip_locked=True)).all()
    session.execute(delete(table).where(table.id.in_(free)))
    return len(free)
