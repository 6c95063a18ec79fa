"""Text for terminals and log lines, in which no character moves the cursor or forges a line."""

import logging
from typing import Any

from .escaping import printable
from .log_context import add_context
from .redaction import describe_error

__all__ = ["LineFormatter", "printable"]


class LineFormatter(logging.Formatter):
    """Formats log records. The lines after the first one, such as a traceback, are indented.

    `%(context)s` is the flow and the run, such as "[import_csv, run 12] ", where the message does
    not have them already.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text."""
        add_context(record)
        known = vars(record)
        words = [known.get("flow"), f"run {known['run_id']}" if "run_id" in known else None]
        shown = ", ".join(str(word) for word in words if word)
        record.context = f"[{shown}] " if shown and "event" not in known else ""
        return printable(super().format(record), kept="\n\t").replace("\n", "\n    ")

    def formatException(self, ei: Any) -> str:  # noqa: N802 - overridden
        """Return the backtrace of an error, without secrets."""
        return describe_error(ei[1])["error_backtrace"].rstrip("\n") if ei[1] else ""
