"""Optional: runs for a time span of the past, window by window."""

import click


def commands() -> list[click.Command]:
    """Return its commands."""
    from .command import backfill

    return [backfill]
