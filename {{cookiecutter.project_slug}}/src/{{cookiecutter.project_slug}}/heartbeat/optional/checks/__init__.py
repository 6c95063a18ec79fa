"""Optional: checks of a project before it serves."""

import click


def commands() -> list[click.Command]:
    """Return its commands."""
    from .command import check

    return [check]
