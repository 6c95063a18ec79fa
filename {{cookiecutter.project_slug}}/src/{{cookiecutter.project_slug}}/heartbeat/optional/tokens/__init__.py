"""Optional: the command that lists and replaces tokens."""

import click


def commands() -> list[click.Command]:
    """Return its commands."""
    from .command import token

    return [token]
