"""Successes of runs that have written nothing through their session: recorded together."""

import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Double, bindparam, select, type_coerce
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..db import backend_of, begin_writing, is_unavailable
from ..events import RunEnded, after_commit
from ..models import DataFlow, DataFlowRun, RunStatus, Trigger, table_of
from ..redaction import describe_error
from ..run import ClaimedRun
from .finish import end_of, finish, flow_values, one_more, record_failure, run_values
from .record import write_end

# On the tables: see `finish.py`.
_FLOW, _RUN = table_of(DataFlow), table_of(DataFlowRun)
# What else holds these rows, a renewal for example, is not waited for.
# Numbers, whatever SQLite holds.
_COUNT = type_coerce(one_more(_FLOW.c.success_count), BigInteger())
_SECONDS: ColumnElement[float] = type_coerce(_FLOW.c.success_seconds, Double()) + 0.0
_LOCK_FLOWS = select(_FLOW.c.id, _COUNT.label("successes"), _SECONDS.label("seconds"))
_LOCK_FLOWS = _LOCK_FLOWS.where(_FLOW.c.id.in_(bindparam("flows", expanding=True)))
_LOCK_FLOWS = _LOCK_FLOWS.order_by(_FLOW.c.id).with_for_update(skip_locked=True)
_LOCK_RUNS = select(_RUN.c.claim_id).where(
    _RUN.c.data_flow_id.in_(bindparam("flows", expanding=True)),
    _RUN.c.active == 1,
    _RUN.c.status == RunStatus.IN_PROGRESS.value,
    _RUN.c.claim_id.in_(bindparam("claims", expanding=True)),
)
_LOCK_RUNS = _LOCK_RUNS.order_by(_RUN.c.id).with_for_update(skip_locked=True)


@dataclass(frozen=True, slots=True)
class Success:
    """The success of a run that has written nothing through its session, not recorded yet.

    values: the columns of its row that are written with it.
    """

    run: ClaimedRun
    ended_at: datetime
    values: dict[str, Any]

    def event(self) -> RunEnded:
        """Return the event to be sent after its record is committed."""
        return end_of(self.run, self.run, self.values, self.ended_at)


class Gathering:
    """Collects the successes that the next transaction of a beat records."""

    def __init__(self) -> None:
        self._successes: list[Success] = []
        self._is_open = False
        self._changing = threading.Lock()

    def add(self, success: Success) -> bool:
        """Keep a success; return False if it must be recorded by itself.

        That is so while nobody is there to record it soon, and for a run of a backfill, whose
        success changes other columns.
        """
        with self._changing:
            if self._is_open and success.run.trigger != Trigger.BACKFILL:
                self._successes.append(success)
                return True
            return False

    def take(self, *, last: bool = False) -> list[Success]:
        """Return what has been collected, and collect further successes unless it is the `last`."""
        with self._changing:
            taken, self._successes, self._is_open = self._successes, [], not last
        return taken


def record_success(heartbeat: Heartbeat, success: Success) -> RunStatus:
    """Record a success in a transaction of its own. Return the status that the run has then."""
    run = success.run

    def write() -> RunStatus:
        try:
            with heartbeat.engine.begin() as connection:
                finish(connection, run, RunStatus.SUCCESS, success.ended_at, **success.values)
        except (SQLAlchemyError, UnicodeError) as error:
            if is_unavailable(error):
                raise
            details = describe_error(error, heartbeat.secrets())
            return record_failure(heartbeat, run, details | success.values)
        heartbeat.notify(success.event())
        return RunStatus.SUCCESS

    return write_end(heartbeat, run, write)


def _record_one_by_one(
    heartbeat: Heartbeat, successes: Sequence[Success]
) -> Iterator[tuple[Success, RunStatus]]:
    """Record successes that could not be recorded together; yield each with its run's status.

    Those come last that the database refuses, or whose rows are locked.
    """
    refused = list[Success]()
    for number, success in enumerate(successes):
        try:
            recorded = heartbeat.transact(partial(record_successes, successes=[success]))
        except (SQLAlchemyError, UnicodeError) as error:
            if is_unavailable(error):
                refused += successes[number:]
                break
            recorded = set()
        if recorded:
            yield success, RunStatus.SUCCESS
        else:
            refused.append(success)
    for success in refused:
        yield success, record_success(heartbeat, success)


def record_successes(session: Session, successes: Sequence[Success]) -> set[str]:
    """Record successes together; return the claims of those that were recorded. The caller commits.

    Left out are the runs that are no longer in progress under their claims, and rows that another
    transaction has locked: nothing waits for these. Not for backfills.
    """
    begin_writing(session)
    connection = session.connection()
    by_claim = {success.run.claim_id: success for success in successes}
    asked = {
        "flows": [success.run.data_flow_id for success in successes],
        "claims": [*by_claim],
    }
    flows = {flow.id: flow for flow in connection.execute(_LOCK_FLOWS, asked)}
    asked["flows"] = [*flows]
    recorded = [by_claim[claim] for claim in connection.scalars(_LOCK_RUNS, asked)]
    if recorded:
        backend = backend_of(connection)
        backend.update_rows(connection, _RUN, [_ended_run(each) for each in recorded])
        flow_rows = [_flow_after(each, flows[each.run.data_flow_id]) for each in recorded]
        backend.update_rows(connection, _FLOW, flow_rows)
    for success in recorded:
        after_commit(session, success.event())
    return {success.run.claim_id for success in recorded}


def _ended_run(success: Success) -> dict[str, Any]:
    values = run_values(success.run, RunStatus.SUCCESS, success.ended_at)
    return {"id": success.run.id, **success.values, **values}


def _flow_after(success: Success, flow: Any) -> dict[str, Any]:
    """Return the new values of a flow's locked row. `flow` has its counts."""
    values = flow_values(success.run, RunStatus.SUCCESS, success.ended_at)
    values["success_count"] = flow.successes
    values["success_seconds"] = flow.seconds + success.values["duration"]
    return {"id": success.run.data_flow_id, **values}


def record_apart(
    heartbeat: Heartbeat,
    successes: Sequence[Success],
    on_end: Callable[[RunStatus], None],
) -> None:
    """Record successes one by one on a thread of their own, which calls `on_end` for each."""

    def record() -> None:
        for success, status in _record_one_by_one(heartbeat, successes):
            on_end(status)
            heartbeat.executor.end(success.run.claim_id)
            heartbeat.executor.wake()

    try:
        # Its lines belong to the same beat.
        within = contextvars.copy_context().run
        threading.Thread(
            target=within, args=(record,), name="heartbeat-record", daemon=True
        ).start()
    except RuntimeError:  # the system gives no thread
        record()
