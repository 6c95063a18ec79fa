"""What a thread works for: the beat, the flow and the run that its log lines belong to.

With the standard library alone, since `printing` needs it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Protocol


class Beat(Protocol):
    """A beat in progress, which learns the id of its row on the way."""

    row_id: int | None


@dataclass(frozen=True, slots=True)
class _Context:
    beat: Beat | None = None
    flow: str | None = None
    run_id: int | None = None


_NOTHING = _Context()
_context: ContextVar[_Context] = ContextVar("heartbeat_log_context", default=_NOTHING)


@contextmanager
def log_context(**changes: Any) -> Iterator[None]:
    """Set `beat`, `flow` or `run_id` for the lines that this thread logs in the block.

    A new thread begins without them, unless it runs in a copy of this context.
    """
    token = _context.set(replace(_context.get(), **changes))
    try:
        yield
    finally:
        _context.reset(token)


def add_context(record: logging.LogRecord) -> None:
    """Add `beat_id`, `flow` and `run_id` to a record, as far as they are known.

    Those that the record has already stay.
    """
    context, known = _context.get(), vars(record)
    if context.beat is not None and context.beat.row_id is not None:
        known.setdefault("beat_id", context.beat.row_id)
    if context.flow is not None:
        known.setdefault("flow", context.flow)
    if context.run_id is not None:
        known.setdefault("run_id", context.run_id)


class ContextFilter(logging.Filter):
    """Adds the context to each record, None for what is not known: for handlers of a host.

    It is needed where the formatter is not one of Heartbeat's, or works on another thread.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the context, and keep the record."""
        add_context(record)
        for name in ("beat_id", "flow", "run_id"):
            vars(record).setdefault(name, None)
        return True
