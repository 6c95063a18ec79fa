"""The command `heartbeat new`."""

import json
import os
import sys
from pathlib import Path

import click
from pydantic import BaseModel

from ...cli.application import application, config_option
from ...definition import Cron, Seconds, Zone
from ...durations import format_every
from ...errors import DataFlowError, InputError
from ...validation import validate_input
from .names import check_name, require_new
from .project import Project, find_project, write_files
from .templates import fill

# The longest line of code in a project.
LINE = 100


class Schedule(BaseModel):
    """The schedule of a new flow."""

    every: Seconds = None
    cron: Cron | None = None
    timezone: Zone | None = None


@click.command()
@config_option
@click.argument("name")
@click.option("--every", metavar="INTERVAL", help='How often, such as "5m".')
@click.option("--cron", metavar="EXPRESSION", help='When instead, such as "0 3 * * *".')
@click.option("--timezone", metavar="ZONE", help='The zone of these times: "Europe/Berlin".')
@click.option("--table", is_flag=True, help="Add a table: a model, and a revision for it.")
def new(config: str, name: str, *, table: bool, **schedule: str | None) -> None:
    """Write the new flow NAME and its test, which can run as they are, for you to edit.

    No file is overwritten.
    """
    check_name(name)
    decorator = _decorator(**schedule)
    with application(config) as heartbeat:
        project = find_project(config)
        require_new(heartbeat, name)
        files = _files(project, config, name, decorator, table=table)
        if any(len(line) > LINE for text in files.values() for line in text.splitlines()):
            raise DataFlowError(f"the name or the schedule is too long for lines of {LINE} letters")
        write_files(files)
    for path in files:
        click.echo(f"wrote {_shown(path)}")
    click.echo("next:")
    for line in _next_commands(project, config, name, table=table):
        click.echo(f"    {line}")


def _decorator(**given: str | None) -> str:
    """Return the decorator with the given schedule. Raises InputError."""
    schedule = validate_input(Schedule, given)
    if (schedule.every is None) == (schedule.cron is None):
        raise InputError({"schedule": ['give --every 5m, or --cron "0 3 * * *", and not both']})
    options = schedule.model_dump(exclude_none=True)
    if schedule.every is not None:
        options["every"] = format_every(schedule.every)
    arguments = [f"{key}={json.dumps(' '.join(text.split()))}" for key, text in options.items()]
    line = f"@flow({', '.join(arguments)})"
    if len(line) <= LINE:
        return line
    return "\n".join(["@flow(", *(f"    {argument}," for argument in arguments), ")"])


def _files(
    project: Project, config: str, name: str, decorator: str, *, table: bool
) -> dict[Path, str]:
    """Return the contents of all files of a new flow, by path."""
    names = {
        "name": name,
        "decorator": decorator,
        "package": project.package,
        "model": "".join(word.capitalize() for word in name.split("_")) + "Record",
        "table": f"{name}_records",
    }
    kind = "_with_table" if table else ""
    files = {
        project.flows / f"{name}.py": fill(f"flow{kind}", names),
        project.tests / f"test_{name}.py": fill(f"test{kind}", names),
    }
    if not table:
        return files
    # Alembic takes long to import.
    from .table import table_files

    return files | table_files(project, config, names)


def _next_commands(project: Project, config: str, name: str, *, table: bool) -> list[str]:
    """Return the commands that apply, run and test what was written."""
    programs = _shown(Path(sys.executable).parent)
    option = (
        "" if config == os.environ.get("HEARTBEAT_CONFIG", "development.ini") else f" -c {config}"
    )
    test = _shown(project.tests / f"test_{name}.py")
    return [
        *([f"{programs}/heartbeat migrate{option}"] if table else []),
        f"{programs}/heartbeat run {name}{option}",
        f"{programs}/python -m pytest {test}",
    ]


def _shown(path: Path) -> str:
    """Return a path as a person in the current folder writes it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
