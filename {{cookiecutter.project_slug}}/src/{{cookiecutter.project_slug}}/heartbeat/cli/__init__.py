"""The command `heartbeat`: everything an operator does from a shell.

The commands stand in the modules beside this one; each reads the application's .ini file.
"""

from importlib import import_module

import click

from .database import migrate
from .flows import flows, remove
from .runs import beat, run, runs


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run data flows and see what became of them."""


for _command in (beat, flows, runs, run, remove, migrate):
    main.add_command(_command)

# Optional: delete a line and its module, and the rest works without it.
for _name in (
    "check",
    "prune",
    "token",
):
    main.add_command(getattr(import_module(f".{_name}", __package__), _name))
