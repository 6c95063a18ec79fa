"""Recording the end of a run, even in a database that refuses its text."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..redaction import as_ascii, describe_error

_Result = TypeVar("_Result")
Values = dict[str, Any]

# How a database, or its driver before it, refuses a text.
REFUSED_TEXT = (DataError, UnicodeError)

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
        message = describe_error(error, heartbeat.secrets())["error_message"]
        log.warning("a record is stored in ASCII, since the database refuses it: %s", message)
        return heartbeat.transact(lambda session: step(session, as_ascii(values)))
