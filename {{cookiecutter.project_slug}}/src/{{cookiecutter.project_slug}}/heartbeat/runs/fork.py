"""Ends the child processes that a flow forks."""

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TypeVar

from ..tracebacks import is_a

_Result = TypeVar("_Result")


def call_flow(function: Callable[..., _Result], *arguments: object) -> _Result:
    """Call a function of a flow. A child process that it forks ends with the call.

    The child has neither the parent's threads nor its connections, and must not record the end of
    the run.
    """
    process = os.getpid()
    try:
        result = function(*arguments)
    except BaseException as error:
        if os.getpid() != process:
            _end_child(error)
        raise
    if os.getpid() != process:
        _end_child(None)
    return result


def _end_child(error: BaseException | None) -> NoReturn:
    """End this process like the interpreter, but without exit handlers."""
    status = 0 if error is None else 1
    with suppress(BaseException):
        if error is not None and is_a(error, SystemExit):
            status = _exit_status(error.code)
        elif error is not None:
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _exit_status(code: object) -> int:
    """Return the status for `sys.exit(code)`, and print a code that is a message."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    sys.stderr.write(f"{code}\n")
    return 1
