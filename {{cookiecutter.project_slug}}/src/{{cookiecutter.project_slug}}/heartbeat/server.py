"""The server: waitress, and a graceful stop of the process.

`use = egg:...#server` in an .ini file names `serve`; gunicorn's configuration, `worker_exit` and
`post_worker_init`.
"""

import errno
import logging
import os
import re
import sys
import threading
from http import HTTPStatus
from importlib import import_module
from pathlib import Path
from typing import Any

from waitress import parser
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import ErrorTask, ThreadedTaskDispatcher

from .core import heartbeats
from .errors import SettingsError
from .stopping import drain, exit_in_order, start_thread, stop_on_signals

# Patterns of `waitress.parser`, each with a part that takes quadratic time, on the thread that
# reads all requests, and its replacement, which matches the same text.
LINEAR_PATTERNS = {
    "HEADER_FIELD_RE": (b":[ \t]{0,}?(?P<value>", b":[ \t]*+(?P<value>"),
    "first_line_re": (
        rb"(?P<uri>(?:[^ :?#]+://[^ ?#/]*(?:[0-9]{1,5})?)?[^ ]+)",
        rb"(?P<uri>[^ ]+)",
    ),
}

log = logging.getLogger(__name__)


class RequestParser(parser.HTTPRequestParser):
    """Reads requests. Waitress closes the connection without a reply after some invalid ones."""

    def parse_header(self, header_plus: bytes) -> None:
        """Read the first line and the headers. Raises ParsingError if they are invalid."""
        try:
            super().parse_header(header_plus)
        except ValueError as error:
            raise parser.ParsingError("invalid address or length") from error


class InvalidRequestTask(ErrorTask):
    """The reply to an invalid request. Waitress would quote the request, and the token in it."""

    def execute(self) -> None:
        """Send the status and its standard description."""
        error: Any = self.request.error  # type: ignore[attr-defined]
        error.body = HTTPStatus(error.code).description
        super().execute()


def serve(wsgi_app: Any, global_conf: dict[str, str], **settings: Any) -> None:
    """Serve an application with waitress and its settings until SIGTERM or SIGINT.

    Then no run is claimed any more, and running flows get `heartbeat.shutdown_grace` to end. Those
    that do not end become `failed` with the error type `Interrupted`. The process exits with 0, at
    most 5 seconds after that time. Functions of `atexit` are not called: they might wait for a
    flow. A second signal ends the process at once.
    """
    logging.basicConfig()  # does nothing where the .ini file has set up logging
    # Before the server listens: as soon as it does, it may be stopped.
    stop_requested = stop_on_signals()
    HTTPChannel.error_task_class = InvalidRequestTask
    HTTPChannel.parser_class = RequestParser
    use_linear_patterns()
    try:
        server = create_server(wsgi_app, **settings)
    except (OSError, ValueError) as error:
        raise SettingsError(_cannot_serve(error, global_conf, settings)) from error
    sys.excepthook = sys.__excepthook__  # later errors are not errors at start
    start_thread(_exit_when, stop_requested, server.task_dispatcher)
    for heartbeat in list(heartbeats):
        heartbeat.log_start()
    server.print_listen("Serving on http://{}:{}")
    server.run()


def use_linear_patterns() -> None:
    """Replace the slow parts of waitress's patterns; warn where this waitress has other ones."""
    for name, (slow, linear) in LINEAR_PATTERNS.items():
        pattern = getattr(getattr(parser, name, None), "pattern", b"")
        if slow in pattern:
            setattr(parser, name, re.compile(pattern.replace(slow, linear)))
        elif linear not in pattern:
            log.warning(
                "waitress.parser.%s is unknown: one request may stop this process for minutes; "
                "install the version of waitress that constraints.txt names",
                name,
            )


def _cannot_serve(error: Exception, global_conf: dict[str, str], settings: dict[str, Any]) -> str:
    """Return why the server cannot listen, and what to change."""
    section = f"[server:main] of {Path(global_conf.get('__file__', 'the .ini file')).name}"
    if not isinstance(error, OSError):
        return f"{section} cannot be used: {error}"
    address = settings.get("listen") or f"{settings.get('host', '*')}:{settings.get('port', 8080)}"
    if error.errno != errno.EADDRINUSE:
        return f"cannot listen on {address} ({error}): change `listen` in {section}"
    return (
        f"{address} is in use by another process: stop that one, or choose another port, for "
        f"example `listen = localhost:6544` in {section}"
    )


def worker_exit(_server: object, worker: Any) -> None:
    """Stop a worker of gunicorn as `serve` stops its process: for the hook of the same name."""
    # The hook is called in the parent too, whose heartbeats belong to future workers.
    if worker.pid == os.getpid():
        drain()


def post_worker_init(_worker: object) -> None:
    """Keep gunicorn from quoting invalid requests in replies and log lines: for that hook."""
    errors = import_module("gunicorn.http.errors")
    for kind in errors.ParseException.__subclasses__():
        kind.__str__ = lambda error: type(error).__name__


def _exit_when(stop_requested: threading.Event, web_threads: ThreadedTaskDispatcher) -> None:
    stop_requested.wait()
    # Waits for requests that are being answered.
    exit_in_order(lambda seconds: web_threads.shutdown(timeout=max(1, int(seconds))))
