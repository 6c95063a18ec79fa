"""Checks of the callables that can be flows."""

import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

Handler = Callable[..., Any]


def check_function(function: Handler) -> Handler:
    """Return the function. Raises ValueError if calling it with a run would not run it."""
    if isinstance(function, type):
        raise ValueError("is a class: declare a function, at the top of a module")  # noqa: TRY004
    # A function, or the method of a callable object.
    for code in (function, type(function).__call__):
        if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
            raise ValueError("is async: declare a plain function, and use asyncio.run() inside it")
        if inspect.isgeneratorfunction(code):
            raise ValueError("is a generator, which runs nothing when called: return, do not yield")
    try:
        # The parameters of the decorator's function: it may add those of the decorated one.
        signature = inspect.signature(function, follow_wrapped=False)
    except ValueError:  # a function written in C may have no signature
        return function
    try:
        signature.bind("run")
    except TypeError as error:
        raise ValueError(f"takes {signature}, but is called with one argument, the run") from error
    return function


def is_importable(function: Handler | None) -> bool:
    """Return whether another process can import this function by its name."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    try:
        return module != "__main__" and pkgutil.resolve_name(f"{module}:{name}") is function
    except (ImportError, AttributeError, ValueError):
        return False
