"""Lets operators look at flows and runs and change them, over HTTP and by command."""

import click
from pyramid.config import Configurator


def includeme(config: Configurator) -> None:
    """Add the routes for operators."""
    config.include(".views")


def commands() -> list[click.Command]:
    """Return the commands that do the same."""
    from . import edit, flows, runs

    changing = [
        edit.add,
        edit.change,
        edit.rename,
        edit.remove,
        edit.reset,
        edit.pause,
        edit.resume,
    ]
    return [*changing, edit.why, flows.flows, runs.run, runs.runs]
