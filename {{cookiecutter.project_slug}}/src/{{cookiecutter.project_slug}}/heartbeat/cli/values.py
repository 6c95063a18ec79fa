"""Values of a configuration, as options of a command."""

import json
from contextlib import suppress
from typing import Any

import click


def _read_pairs(
    _context: click.Context, _option: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE")
        values[key] = value
        with suppress(ValueError):
            values[key] = json.loads(value)
    return values


values_option = click.option(
    "--set",
    "values",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_read_pairs,
    help="A key of the configuration, and its value as JSON or as text. Repeatable.",
)
