"""What the commands share: reading the .ini file, and errors of one clear line."""

import configparser
import functools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from pyramid.paster import bootstrap, get_appsettings, setup_logging
from rich.console import Console
from rich.table import Table
from sqlalchemy.exc import DBAPIError

from ..core import Heartbeat
from ..errors import DataFlowError
from ..migrations import require_current
from ..redaction import redact
from ..runs.register import register


class Commands(click.Group):
    """Turns the errors that are meant for people into one line and the exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command that was typed."""
        try:
            return super().invoke(ctx)
        except DataFlowError as error:
            raise click.ClickException(redact(str(error))) from error


def _require_file(_context: click.Context, _option: click.Parameter, config: str) -> str:
    """Return what was given. Raises a UsageError if the .ini file is not there."""
    if not Path(config.partition("#")[0]).is_file():
        message = f"there is no file {config}: go to the project's folder, or name it with -c"
        raise click.UsageError(message)
    return config


config_option = click.option(
    "-c",
    "--config",
    default="development.ini",
    metavar="FILE",
    callback=_require_file,
    help="The application's .ini file.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


@contextmanager
def application(config: str) -> Iterator[Heartbeat]:
    """Start the application that `config` names and give its heartbeat."""
    try:
        get_appsettings(config)
        setup_logging(config)
    except (LookupError, configparser.Error) as error:
        raise click.UsageError(f"{config} cannot be used: {error}") from error
    with bootstrap(config) as environment:
        heartbeat: Heartbeat = environment["registry"]["heartbeat"]
        try:
            yield heartbeat
        except DBAPIError:
            # Tells what is wrong with the database, if anything is, in words that help.
            require_current(heartbeat.engine)
            raise
        finally:
            heartbeat.engine.dispose()


def command(work: Callable[..., None]) -> click.Command:
    """Turn `work` into a command: it is given the heartbeat of the application that -c names.

    What needs no database, or must not write to it, calls `application` itself.
    """

    @click.command()
    @config_option
    @functools.wraps(work)
    def called(config: str, **given: Any) -> None:
        with application(config) as heartbeat:
            register(heartbeat)
            work(heartbeat, **given)

    return called


def show(title: str, rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print rows as a table for people, or as JSON with all members for programs."""
    if as_json:
        click.echo(json.dumps(rows, default=datetime.isoformat, indent=2))
        return
    if not rows:
        click.echo(f"no {title}")
        return
    table = Table(*rows[0].keys())
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    # A pipe has no width of its own, and a cut table helps nobody.
    Console(width=None if sys.stdout.isatty() else 160, markup=False).print(table)


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return "" if value is None else str(value)
