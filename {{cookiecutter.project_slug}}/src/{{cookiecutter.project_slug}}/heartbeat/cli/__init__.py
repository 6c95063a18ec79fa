"""The command `heartbeat`: everything an operator does from a shell.

The commands stand in the modules beside this one; each reads the application's .ini file.
"""

from importlib import import_module

import click

from .application import Commands
from .beat import beat
from .database import migrate

_CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(cls=Commands, context_settings=_CONTEXT)
def main() -> None:
    """Run data flows and see what became of them."""


main.add_command(beat)
main.add_command(migrate)

# Optional: modules and their commands. Delete a line and its module, and the rest works without it.
_OPTIONAL: dict[str, str] = {
    "backfill": "backfill",
    "check": "check",
    "edit": "add rename remove reset pause resume why",
    "flows": "flows",
    "prune": "prune",
    "runs": "run runs",
    "token": "token",
}
for _module, _names in _OPTIONAL.items():
    for _name in _names.split():
        main.add_command(getattr(import_module(f".{_module}", __package__), _name))
