"""Optional: lists of runs and beats, as routes and commands, and the rhythm of schedulers."""

import click
from pyramid.config import Configurator


def includeme(config: Configurator) -> None:
    """Add the routes of the history."""
    config.include(".views")


def commands() -> list[click.Command]:
    """Return the commands that show the history."""
    from . import beats, runs

    return [runs.runs, beats.beats]
