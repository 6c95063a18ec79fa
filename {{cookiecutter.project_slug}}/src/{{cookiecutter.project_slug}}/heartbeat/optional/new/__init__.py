"""Optional: the command `heartbeat new`, which writes a flow with its test, and a table for it."""

import click


def commands() -> list[click.Command]:
    """Return its commands."""
    from .command import new

    return [new]
