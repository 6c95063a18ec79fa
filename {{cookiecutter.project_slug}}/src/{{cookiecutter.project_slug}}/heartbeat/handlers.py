"""Which callables can be flows."""

import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

Handler = Callable[..., Any]


def check_function(function: Handler) -> Handler:
    """Return the function. Raises ValueError if a call with a run would not do its work."""
    if isinstance(function, type):
        raise ValueError("is a class: declare a function, at the top of a module")  # noqa: TRY004
    # What is called: a function, or the method of an object.
    for code in (function, type(function).__call__):
        if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
            raise ValueError("is async: declare a plain function, and use asyncio.run() inside it")
        if inspect.isgeneratorfunction(code):
            raise ValueError("is a generator, which runs nothing when called: return, do not yield")
    try:
        # Of a decorated function, the parameters of what is called: it may add the others.
        signature = inspect.signature(function, follow_wrapped=False)
    except ValueError:  # one written in C does not say
        return function
    try:
        signature.bind("run")
    except TypeError as error:
        raise ValueError(f"takes {signature}, but is called with one argument, the run") from error
    return function


def is_importable(function: Handler | None) -> bool:
    """Return whether another process gets this very function by importing it by its name."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    try:
        return module != "__main__" and pkgutil.resolve_name(f"{module}:{name}") is function
    except (ImportError, AttributeError, ValueError):
        return False
