"""The command `heartbeat`: everything an operator does from a shell.

The commands stand in the modules beside this one; each reads the application's .ini file.
"""

import click

from .check import check
from .database import migrate
from .flows import flows, remove
from .prune import prune
from .runs import beat, run, runs
from .token import token


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run data flows and see what became of them."""


for _command in (beat, flows, runs, run, remove, prune, token, migrate, check):
    main.add_command(_command)
