"""A rehearsal: what a run does, without a record of it, and with a rollback at its end."""

import logging
import threading
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Connection, event

from ...core import Heartbeat
from ...db import Limits, backend_of, make_engine
from ...db.flow_session import FlowSession, break_off, flow_transaction, watch_session
from ...errors import DataFlowError, FlowProcessDied, FlowTimeout
from ...models import RunStatus
from ...printing import printable
from ...redaction import describe_error, error_of
from ...run import ClaimedRun
from ...run_log import RunLog
from ...runs.execute import call_in_session
from .rows import WrittenRows

# A run waits for a lock as long as it takes. A rehearsal gives up: others hold it for real work.
LIMITS = Limits(lock=10, write_lock=10)
# How many rehearsals with a limit may go on at once in this process, and the name of their threads.
MAX_AT_ONCE = 2
THREAD = "heartbeat-rehearsal"
# How long after its limit a process is ended whose answer nobody waits for.
GRACE = 2.0

log = logging.getLogger(__name__)


class RehearsalMembers(BaseModel):
    """How a rehearsal ended. The names are those of a run; all that it wrote was rolled back.

    tables: the numbers of rows by table: what it had inserted, updated, deleted and upserted. None
        if it was ended before it could report them.
    other_statements: the numbers of statements whose table is not known, by their first words.
    """

    flow: str
    status: str
    window_start: datetime
    window_end: datetime
    duration: float
    result: Any = None
    error: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    error_backtrace: str | None = None
    log: str | None = None
    tables: dict[str, dict[str, int]] | None = None
    other_statements: dict[str, int] | None = None


def rehearse(heartbeat: Heartbeat, run: ClaimedRun, limit: float | None = None) -> RehearsalMembers:
    """Call a run's flow, roll back what it wrote, and return how it ended.

    limit: the seconds after which it is given up. A flow with a `timeout`, which has its own
        process, is ended then. Another one goes on without its session, in its thread. Raises
        DataFlowError if MAX_AT_ONCE of these go on already.
    """
    rehearsal = _Rehearsal(heartbeat, run)
    ended = rehearsal.call_on_thread(limit) if limit else rehearsal.call()
    log.info("%s was rehearsed: %s", run.flow_name, printable(ended.error or "success"))
    return ended


def call_in_child(heartbeat: Heartbeat, run: ClaimedRun) -> object:
    """Rehearse in a child process; return the members as JSON."""
    return _Rehearsal(heartbeat, run).call_here().model_dump(mode="json")


class _Rehearsal:
    def __init__(self, heartbeat: Heartbeat, run: ClaimedRun) -> None:
        self._heartbeat = heartbeat
        self._run = run
        self._definition = heartbeat.flows[run.handler]
        self._log = RunLog(run.flow_name, heartbeat.secrets)
        self._began = heartbeat.clock.monotonic()
        self._session: FlowSession | None = None
        self._transaction: tuple[int, str] | None = None

    def call_on_thread(self, limit: float) -> RehearsalMembers:
        """Call the flow on a thread of its own; after the limit, roll back and give it up."""
        going_on = [each for each in threading.enumerate() if each.name == THREAD]
        if len(going_on) >= MAX_AT_ONCE:
            raise DataFlowError(f"{len(going_on)} rehearsals are going on: wait for one to end")
        answers: list[RehearsalMembers] = []
        thread = threading.Thread(
            target=lambda: answers.append(self.call(limit + GRACE)), name=THREAD, daemon=True
        )
        thread.start()
        thread.join(limit)
        if thread.is_alive() and self._session is not None:
            break_off(self._session)
            if self._transaction:
                engine = self._heartbeat.engine
                backend_of(engine).end_transaction(engine, *self._transaction)
        if answers:
            return answers[0]
        error = FlowTimeout(
            f"the rehearsal took longer than {limit:g} s, and was rolled back: "
            f"`heartbeat rehearse {self._run.flow_name}` waits as long as it takes"
        )
        return self._members(error)

    def call(self, limit: float | None = None) -> RehearsalMembers:
        """Call the flow: one with a timeout in a process of its own, which is ended in time."""
        call, timeout = self._heartbeat.call_in_subprocess, self._definition.timeout
        if not (call and timeout):
            return self.call_here()
        try:
            answer = call(call_in_child, self._run, min(timeout, limit or timeout), self._log)
        except (FlowTimeout, FlowProcessDied) as error:
            return self._members(error)
        if answer is None:
            return self._members(FlowProcessDied("this process was stopped meanwhile"))
        return RehearsalMembers.model_validate(answer)

    def call_here(self) -> RehearsalMembers:
        """Call the flow on this thread."""
        # Of its own: what outlasts a transaction ends with the connection, such as a temporary
        # table, an advisory lock or a setting.
        engine = make_engine(self._heartbeat.flow_engine.url, limits=LIMITS, pool_size=1)
        watch_session(engine)
        rows, backend = WrittenRows(engine), backend_of(engine)
        result, failure = None, None
        try:
            with flow_transaction(engine, commit=False) as session:
                self._session = session
                event.listen(session, "after_begin", self._note_transaction)
                result = call_in_session(self._definition, self._run, session, self._log)
                rows.require_none_refused()
                if session.manager is None:
                    backend.refuse_left_transaction(engine)
                else:
                    backend.check_deferred(session.connection())
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a flow may raise anything
            backend.end_left_transaction(engine)
            failure = error
        finally:
            engine.dispose()
        written = {"tables": rows.tables(), "other_statements": rows.others}
        return self._members(failure, result=result, **written)

    def _note_transaction(self, _: object, _transaction: object, connection: Connection) -> None:
        if self._transaction is None:
            self._transaction = backend_of(connection).open_transaction(connection)

    def _members(self, error: BaseException | None = None, **columns: Any) -> RehearsalMembers:
        secrets = self._heartbeat.secrets
        columns["status"] = RunStatus.FAILED if error else RunStatus.SUCCESS
        if error:
            columns |= describe_error(error, secrets()) | {"result": None}
            columns["error"] = error_of(columns["error_type"], columns["error_message"])
        return RehearsalMembers(
            flow=self._run.flow_name,
            window_start=self._run.window_start,
            window_end=self._run.window_end,
            duration=self._heartbeat.clock.monotonic() - self._began,
            log=self._log.text(secrets),
            **columns,
        )
