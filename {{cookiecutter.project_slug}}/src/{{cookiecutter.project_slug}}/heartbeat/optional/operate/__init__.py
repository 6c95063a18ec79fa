"""Optional: routes and commands for operators, to view flows and runs and to change them."""

import click
from pyramid.config import Configurator


def includeme(config: Configurator) -> None:
    """Add the routes for operators."""
    config.include(".views")


def commands() -> list[click.Command]:
    """Return the commands for operators."""
    from . import edit, flows, runs

    changing = [edit.add, edit.change, edit.rename, edit.remove, edit.reset, edit.pause]
    return [*changing, edit.resume, edit.why, flows.flows, runs.run, runs.runs]
