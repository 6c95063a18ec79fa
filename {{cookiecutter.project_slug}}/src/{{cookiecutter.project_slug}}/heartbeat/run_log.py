"""The log of a run: the beginning of what its flow logs."""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from .redaction import describe_error, redact

LONGEST_LOG = 10_000
_LINE = logging.Formatter("%(asctime)s %(levelname)s %(message)s")


class RunLog(logging.Handler):
    """Keeps the log lines of a flow, up to `LONGEST_LOG` characters, and passes them on.

    secrets: returns the secrets to mask in the backtrace of a logged error.
    """

    def __init__(self, flow_name: str, secrets: Callable[[], Sequence[str]] = tuple) -> None:
        super().__init__()
        self.setFormatter(_LINE)
        self._secrets = secrets
        self._lines: list[str] = []
        self._length = 0
        self._dropped = 0
        # Not from getLogger(), which would share one logger between the runs of a flow.
        self.logger = logging.Logger(f"{__package__}.{flow_name}", logging.INFO)  # noqa: LOG001
        self.logger.parent = logging.getLogger(__package__)
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line, or count it when the limit is reached."""
        try:
            if record.exc_info and record.exc_info[1] is not None:
                # Kept in the record, so that the handlers after this one use it, too.
                described = describe_error(record.exc_info[1], self._secrets())
                record.exc_text = described["error_backtrace"].rstrip("\n")
            line = self.format(record)
        except BaseException:  # noqa: BLE001 - as everywhere in logging, a bad call has no effect
            with suppress(BaseException):
                self.handleError(record)
            # The handlers after this one would fail as well, and may not catch the error.
            record.msg, record.args = "(a line that could not be formatted)", None
            return
        if self._length + len(line) > LONGEST_LOG:
            self._dropped += 1
            return
        self._lines.append(line)
        self._length += len(line)

    def text(self, secrets: Callable[[], Iterable[str]]) -> str | None:
        """Return the log without secrets; None, without calling `secrets`, if it is empty."""
        lines = [*self._lines, *([f"({self._dropped} more lines)"] if self._dropped else [])]
        return redact("\n".join(lines), secrets()) if lines else None
