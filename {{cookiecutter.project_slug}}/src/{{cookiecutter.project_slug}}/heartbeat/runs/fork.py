"""What becomes of a process that a flow forks."""

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TypeVar

from ..tracebacks import is_a

_Result = TypeVar("_Result")


def call_flow(function: Callable[..., _Result], *arguments: object) -> _Result:
    """Call what belongs to a flow. A child of this process that it forks ends with the call.

    The child has neither the parent's threads nor a connection of its own, and its end is not that
    of the run.
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
    """End this process as the interpreter does at the end of a program, but without its exit."""
    code: object = 0 if error is None else 1
    with suppress(BaseException):
        if error is not None and is_a(error, SystemExit):
            code = error.code
            if not (code is None or isinstance(code, int)):
                sys.stderr.write(f"{code}\n")
        elif error is not None:
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
    status = code & 0xFF if isinstance(code, int) else 1
    os._exit(0 if code is None else status)
