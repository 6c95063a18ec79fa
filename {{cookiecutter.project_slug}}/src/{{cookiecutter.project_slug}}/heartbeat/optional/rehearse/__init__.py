"""Optional: rehearsals. A flow runs in its real transaction, which is then rolled back."""

import click


def commands() -> list[click.Command]:
    """Return its commands."""
    from .command import rehearse

    return [rehearse]
