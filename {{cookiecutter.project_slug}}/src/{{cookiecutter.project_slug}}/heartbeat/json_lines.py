"""Log lines in JSON: the formatter that production.ini names."""

import json
import logging
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pythonjsonlogger.json import JsonFormatter as BaseFormatter

from .json_values import json_problem
from .log_context import add_context
from .redaction import describe_error
from .tracebacks import text_of


class JsonFormatter(BaseFormatter):
    """Formats a record as one JSON object, with its context, in UTC, without secrets of errors."""

    def __init__(self, *args: Any, **options: Any) -> None:
        # NaN is not JSON.
        super().__init__(*args, json_serializer=partial(json.dumps, allow_nan=False), **options)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        add_context(record)
        if record.exc_info and record.exc_info[1] and not record.exc_text:
            record.exc_text = describe_error(record.exc_info[1])["error_backtrace"].rstrip("\n")
        return super().format(record)

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """Return the JSON of a line's members; as text those that JSON cannot hold."""
        try:
            return super().jsonify_log_record(log_data)
        except (TypeError, ValueError, RecursionError):
            as_text = {str(name): _plain(value) for name, value in log_data.items()}
            return super().jsonify_log_record(as_text)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - overridden
        """Return the record's time in ISO 8601."""
        if datefmt:
            return super().formatTime(record, datefmt)
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")

    def formatException(self, _exc_info: Any) -> str:  # noqa: N802 - overridden
        """Return nothing: the text of the error is kept in the record."""
        return ""


def _plain(value: object) -> object:
    return value if json_problem(value) is None else text_of(value)
