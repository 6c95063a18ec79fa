"""The command `heartbeat`.

Each command reads the application's .ini file. Optional modules add commands.
"""

import click

from .. import VERSION, optional_modules
from .application import Commands, debug_option
from .beat import beat
from .database import migrate

_CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(cls=Commands, context_settings=_CONTEXT)
@click.version_option(VERSION, prog_name="heartbeat")
@debug_option
def main() -> None:
    """Run data flows and look at their results."""


main.add_command(beat)
main.add_command(migrate)
for _module in optional_modules():
    for _command in getattr(_module, "commands", list)():
        main.add_command(_command)
