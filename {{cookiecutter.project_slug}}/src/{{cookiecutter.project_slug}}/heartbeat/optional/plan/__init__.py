"""Optional: declared and stored schedules side by side, and a forecast of the coming slots."""

import click


def commands() -> list[click.Command]:
    """Return its command."""
    from .command import plan

    return [plan]
