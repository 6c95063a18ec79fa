"""Changes of many flows at once: pausing, resuming and running them.

The flows are changed in batches, each in one transaction of a few statements. They follow the same
rules as in the operation for a single flow. A flow that cannot be changed is left out.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import chain
from typing import NamedTuple

from sqlalchemy import false, select, true
from sqlalchemy.orm import Session

from ...core import Heartbeat
from ...db import begin_writing
from ...db.stored import readable
from ...errors import DataFlowError
from ...models import DataFlow, DataFlowRun, RunStatus
from ...runs.execute import execute
from ...runs.finish import cancel
from ...runs.request import claim_pending, requested_run
from .operations import enable

# How many flows a transaction locks: databases limit the parameters of a statement.
BATCH = 500
# The beginning of the reason of flows that were paused together with all others.
EVERYTHING = "paused with all flows at "


class Outcome(NamedTuple):
    """How many flows were changed, and how many were left out because they cannot be."""

    changed: int
    left_out: int


def pause_flows(heartbeat: Heartbeat, flow_ids: Sequence[int], reason: str) -> Outcome:
    """Disable flows, and cancel their pending runs. Those that are disabled stay as they are."""

    def step(session: Session, flows: Sequence[DataFlow], runs: _Runs, now: datetime) -> list[int]:
        enabled = [flow for flow in flows if flow.enabled is not False]
        for flow in enabled:
            flow.enabled, flow.disabled_reason, flow.updated_at = False, reason, now
        waiting = [runs[flow.id] for flow in enabled if flow.id in runs]
        pending = [run for run in waiting if run.status == RunStatus.PENDING]
        cancel(session, pending, f"its flow was {reason}", now)
        return [flow.id for flow in enabled]

    changed = _change(heartbeat, flow_ids, step)
    return Outcome(len(changed), 0)


def pause_everything(heartbeat: Heartbeat, reason: str) -> Outcome:
    """Disable all flows, so that `resume_everything` enables exactly these again."""
    now = heartbeat.clock.now()
    with heartbeat.session() as session:
        enabled = select(DataFlow.id).where(DataFlow.enabled == true())
        flow_ids = session.scalars(enabled).all()
    return pause_flows(heartbeat, flow_ids, f"{EVERYTHING}{now:%Y-%m-%d %H:%M} UTC: {reason}")


def pause_of_everything(session: Session) -> str | None:
    """Return the reason of the pause of all flows that lasts; None without one."""
    paused = select(DataFlow.disabled_reason).where(DataFlow.enabled == false())
    paused = paused.where(DataFlow.disabled_reason.startswith(EVERYTHING)).limit(1)
    return readable(session.scalars(paused).first())


def resume_everything(heartbeat: Heartbeat) -> Outcome:
    """Enable the flows that a pause of all flows has disabled, and no others."""
    with heartbeat.session() as session:
        paused = select(DataFlow.id).where(DataFlow.enabled == false())
        paused = paused.where(DataFlow.disabled_reason.startswith(EVERYTHING))
        flow_ids = session.scalars(paused).all()
    return resume_flows(heartbeat, flow_ids)


def resume_flows(heartbeat: Heartbeat, flow_ids: Sequence[int]) -> Outcome:
    """Enable disabled flows. Of the slots that passed meanwhile, at most one of each runs.

    Flows that are enabled stay as they are. Those that cannot be read are left out.
    """
    left_out = set[int]()

    def step(_session: Session, flows: Sequence[DataFlow], runs: _Runs, now: datetime) -> list[int]:
        resumed = []
        for flow in flows:
            if flow.enabled is True:
                continue
            left_out.add(flow.id)
            with suppress(DataFlowError):
                enable(heartbeat, flow, runs.get(flow.id), now)
                flow.updated_at = now
                left_out.remove(flow.id)
                resumed.append(flow.id)
        return resumed

    changed = _change(heartbeat, flow_ids, step)
    return Outcome(len(changed), len(left_out))


def run_flows(heartbeat: Heartbeat, flow_ids: Sequence[int]) -> Outcome:
    """Request a run of each flow: some start on the free workers, the others with the next beat.

    Left out are flows with a run that has not ended, without a handler, or with a configuration
    that does not fit.
    """

    def step(session: Session, flows: Sequence[DataFlow], runs: _Runs, _now: datetime) -> list[int]:
        requested = []
        for flow in flows:
            with suppress(DataFlowError):
                requested.append(requested_run(heartbeat, flow, runs.get(flow.id)))
        session.add_all(requested)
        session.flush()
        return [run.id for run in requested]

    changed = _change(heartbeat, flow_ids, step)
    _start(heartbeat, changed)
    return Outcome(len(changed), len(set(flow_ids)) - len(changed))


def _start(heartbeat: Heartbeat, run_ids: Sequence[int]) -> None:
    """Start as many of the requested runs as workers are free, or hand them over."""
    if heartbeat.hand_over_requested:
        heartbeat.hand_over_requested(run_ids)
    with heartbeat.executor.reserve() as room:
        first = run_ids[: room.free]
        claimed = claim_pending(heartbeat, first, heartbeat.waiting_operators) if first else []
        room.taken = len(claimed)
    for run in claimed:
        heartbeat.executor.start(partial(execute, heartbeat), run)


# The active runs of flows, by the id of the flow.
_Runs = Mapping[int, DataFlowRun]
_Step = Callable[[Session, Sequence[DataFlow], _Runs, datetime], list[int]]


def _change(heartbeat: Heartbeat, flow_ids: Sequence[int], step: _Step) -> list[int]:
    """Do a step with the locked flows of each batch; return the ids that the steps return."""

    def work(session: Session, batch: Sequence[int]) -> list[int]:
        begin_writing(session, heartbeat.waiting_operators)
        mine = select(DataFlow).where(DataFlow.id.in_(batch)).order_by(DataFlow.id)
        flows = session.scalars(mine.with_for_update()).all()
        active = DataFlowRun.data_flow_id.in_(batch), DataFlowRun.active == 1
        runs = {
            run.data_flow_id: run for run in session.scalars(select(DataFlowRun).where(*active))
        }
        changed = step(session, flows, runs, heartbeat.clock.now())
        session.flush()
        return changed

    ids = sorted(set(flow_ids))
    batches = (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))
    return [*chain(*(heartbeat.transact(partial(work, batch=batch)) for batch in batches))]
