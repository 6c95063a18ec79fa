"""Optional: routes and commands for operators, to view flows, to change and to run them."""

import click
from pyramid.config import Configurator


def includeme(config: Configurator) -> None:
    """Add the routes for operators."""
    config.include(".views")


def commands() -> list[click.Command]:
    """Return the commands for operators."""
    from . import edit, flows, run

    changing = [edit.add, edit.change, edit.rename, edit.remove, edit.reset, edit.pause]
    return [*changing, edit.resume, edit.why, flows.flows, run.run]
