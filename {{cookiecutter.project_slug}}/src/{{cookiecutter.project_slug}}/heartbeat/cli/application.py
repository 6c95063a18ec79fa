"""The base of the commands: reading the .ini file, and errors of one clear line."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import click
from pyramid.config import global_registries
from pyramid.paster import get_app, get_appsettings, setup_logging
from sqlalchemy.exc import DBAPIError

from ..core import Heartbeat
from ..migrations import require_current
from ..printing import printable
from ..runs.register import register
from ..runs.release import release_in_doubt
from ..startup import explain, is_debugging

_Work = TypeVar("_Work", bound=Callable[..., Any])
_Result = TypeVar("_Result")


# As `pyramid.paster.bootstrap` names itself to the .ini file.
_get_app = functools.partial(get_app, options={"__script__": "bootstrap"})


class CommandError(click.ClickException):
    """An error with a line for each problem."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the lines to standard error."""
        for line in self.message.splitlines():
            click.echo(f"Error: {printable(line)}", file=file, err=True)


class FileError(CommandError):
    """The .ini file cannot be used."""

    exit_code = 2


class Commands(click.Group):
    """Turns any error of a command into one line and the exit code 1, except with --debug."""

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command that was typed."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if is_debugging():
                raise
            raise CommandError(explain(error)) from error


def _start(step: Callable[[str], _Result], config: str, kind: type[CommandError]) -> _Result:
    """Call a step of the start. Raises `kind` with the reason if it fails."""
    try:
        return step(config)
    except Exception as error:
        if is_debugging():
            raise
        # `explain` looks for the application's frames: this function is not one of them.
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
        raise kind(explain(error, config)) from error


def check_file(config: str) -> str:
    """Return the path of an .ini file. Raises FileError if it cannot be used."""
    if not Path(config.partition("#")[0]).is_file():
        place = "go to the project's folder, or name it with -c or HEARTBEAT_CONFIG"
        raise FileError([f"there is no file {config}: {place}"])
    _start(get_appsettings, config, FileError)
    return config


# Read from the arguments of the process, so that it works for errors before the command, too.
debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, help="Print the traceback of an error."
)
_config_option = click.option(
    "-c",
    "--config",
    default="development.ini",
    envvar="HEARTBEAT_CONFIG",
    show_envvar=True,
    metavar="FILE",
    callback=lambda _context, _option, config: check_file(config),
    help="The application's .ini file.",
)


def config_option(work: _Work) -> _Work:
    """Add the options that all commands have."""
    return _config_option(debug_option(work))


@contextmanager
def application(config: str) -> Iterator[Heartbeat]:
    """Start the application that `config` names, and yield its heartbeat."""
    _start(setup_logging, config, FileError)
    before = list(global_registries)
    # Not `bootstrap`, which makes a request: the root factory may redirect one without a user. The
    # variable keeps the registry alive, which `global_registries` references weakly.
    _application = _start(_get_app, config, CommandError)
    made = [each for each in global_registries if not any(each is known for known in before)]
    heartbeats = [registry["heartbeat"] for registry in made if "heartbeat" in registry]
    if not heartbeats:
        fix = f'call config.include("{__package__.rpartition(".")[0]}") in its main()'
        raise CommandError([f"the application of {config} does not include the engine: {fix}"])
    heartbeat: Heartbeat = heartbeats[-1]
    try:
        yield heartbeat
    except DBAPIError:
        # Raises an error that names the problem of the database, if it has one.
        require_current(heartbeat.engine)
        raise
    finally:
        with suppress(DBAPIError):  # then those runs end with their leases
            release_in_doubt(heartbeat)
        for end in heartbeat.at_exit:
            with suppress(Exception):
                end()
        heartbeat.dispose()


def command(work: Callable[..., None]) -> click.Command:
    """Turn `work` into a command, which gets the heartbeat of the application that -c names.

    A command that needs no database, or must not write to it, calls `application` itself.
    """

    @click.command()
    @config_option
    @functools.wraps(work)
    def called(config: str, **given: Any) -> None:
        with application(config) as heartbeat:
            register(heartbeat)
            work(heartbeat, **given)

    return called
