"""The two ways of declaring a flow: the directive, and a decorated function that a scan finds."""

import re
import sys
import types
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import pytest
from pyramid import exceptions
from pyramid.config import Configurator

from data_flows.heartbeat.errors import DeclarationError

SCANNED = "scanned_flows_%d.py"
_numbers = count(1)

# Declares a function with options.
Declare = Callable[[Configurator, Any, Mapping[str, Any]], None]


def by_directive(config: Configurator, function: Any, options: Mapping[str, Any]) -> None:
    """Call the directive."""
    config.add_flow(function, **options)


def by_scan(config: Configurator, function: Any, options: Mapping[str, Any]) -> None:
    """Decorate in a module of its own, as a project does in `flows/`, and scan that."""
    number = next(_numbers)
    module: Any = types.ModuleType(f"scanned_flows_{number}")
    module.options, module.function = dict(options), function
    source = """
from data_flows.heartbeat import flow
declared = flow(**options)(function)
"""
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, SCANNED % number, "exec"), vars(module))  # noqa: S102 - our own code
        config.scan(module)
    finally:
        del sys.modules[module.__name__]


ENTRANCES: dict[str, Declare] = {"directive": by_directive, "scan": by_scan}
# Marks a test that declares by `make_app` or by the fixture `declare`: it is run for both.
both_entrances = pytest.mark.parametrize("declare", ENTRANCES, indirect=True)
# Where the declaration stands, in messages.
PLACE = r"(entrances\.py|scanned_flows_\d+\.py), line \d+: @?flow"


def refusal(make_app: Callable[..., object], function: Any, **options: Any) -> str:
    """Declare a flow that cannot be; return the one line of the error that stops the start."""
    with pytest.raises(exceptions.ConfigurationError) as caught:
        make_app((function, options))
    assert isinstance(caught.value, DeclarationError)
    [line] = str(caught.value).splitlines()
    assert re.search(PLACE, line)
    return line
