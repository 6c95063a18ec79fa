"""Writing the end of a run into a database that refuses its text, or that is away for a moment."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..db import reason
from ..errors import ClaimLostError
from ..log_context import log_context
from ..models import DataFlowRun, RunStatus
from ..redaction import as_ascii, describe_error, short_error
from ..run import ClaimedRun

_Result = TypeVar("_Result")
Values = dict[str, Any]

# The errors by which a database or its driver refuses a text.
REFUSED_TEXT = (DataError, UnicodeError)
# How long a record that could not be written waits for the next try, in seconds; it doubles.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0

log = logging.getLogger(__name__)


def record(
    heartbeat: Heartbeat, step: Callable[[Session, Values], _Result], values: Values
) -> _Result:
    """Do a step of bookkeeping that writes `values`; return its result.

    If the database refuses their text, the step is done once more with escapes of ASCII alone.
    """
    try:
        return heartbeat.transact(lambda session: step(session, values))
    except REFUSED_TEXT as error:
        message = short_error(describe_error(error, heartbeat.secrets())["error_message"])
        log.warning("a record is stored in ASCII, since the database refuses it: %s", message)
        return heartbeat.transact(lambda session: step(session, as_ascii(values)))


def write_end(heartbeat: Heartbeat, run: ClaimedRun, write: Callable[[], RunStatus]) -> RunStatus:
    """Call `write` until it can write a run's end, or until its lease would have ended.

    Return the status that the run has then.
    """
    with log_context(flow=run.flow_name, run_id=run.id):
        return _write_end(heartbeat, run, write)


def _write_end(heartbeat: Heartbeat, run: ClaimedRun, write: Callable[[], RunStatus]) -> RunStatus:
    clock, pause = heartbeat.clock, FIRST_PAUSE
    until = clock.monotonic() + heartbeat.settings.lease
    while True:
        try:
            return _write_once(heartbeat, run, write)
        except SQLAlchemyError as error:
            cause = reason(error) if isinstance(error, DBAPIError) else short_error(str(error))
            problem = "the end of run %d could not be recorded (%s)"
            if clock.monotonic() > until or heartbeat.executor.abandoned:
                message = f"{problem}: it is reaped when its lease ends"
                log.error(message, run.id, cause)  # noqa: TRY400 - the cause says it all
                return RunStatus.FAILED
            message, level = f"{problem}: it is retried until its lease ends", logging.WARNING
            heartbeat.repeats.log(log, level, message, run.id, cause, key=run.id)
        clock.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _write_once(heartbeat: Heartbeat, run: ClaimedRun, write: Callable[[], RunStatus]) -> RunStatus:
    try:
        return write()
    except ClaimLostError as error:
        log.warning("%s: %s", run.flow_name, error)
    # Ended by a process that reaped it, or by a commit of ours whose answer was lost.
    ours = DataFlowRun.id == run.id, DataFlowRun.claim_id == run.claim_id
    with heartbeat.session() as session:
        status = session.scalars(select(DataFlowRun.status).where(*ours)).one_or_none()
    return RunStatus.SUCCESS if status == RunStatus.SUCCESS else RunStatus.FAILED
