"""Optional: the option `--every` of `heartbeat beat`, a scheduler without another program."""

import click


def commands() -> list[click.Command]:
    """Return the command `beat` with this option, which replaces the one without it."""
    from .command import beat

    return [beat]
