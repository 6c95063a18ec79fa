"""What commands print: whole names at any width, members as over HTTP, and completions."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows import heartbeat
from data_flows.heartbeat.cli import main

from ..conftest import MakeApp
from ..factories import data_flow
from .conftest import Command
from .operated import SECRET, Call, count

LONG = "a-name-of-a-flow-which-is-longer-than-most"
# Runs the command that follows in a terminal of the given width, and prints what it shows.
IN_TERMINAL = """
import os, pty, sys
import fcntl, struct, termios
child, terminal = pty.fork()
if child == 0:
    size = struct.pack("HHHH", 24, int(sys.argv[1]), 0, 0)
    fcntl.ioctl(1, termios.TIOCSWINSZ, size)
    os.execv(sys.argv[2], sys.argv[2:])
shown = b""
while True:
    try:
        part = os.read(terminal, 65536)
    except OSError:
        break
    if not part:
        break
    shown += part
sys.stdout.buffer.write(shown)
"""


@pytest.fixture
def app(make_app: MakeApp) -> TestApp:
    """Make an application for operators."""
    return make_app((count, {"every": "1h"}), **SECRET)


@pytest.fixture
def typed(ini_file: Callable[..., Path]) -> Callable[..., str]:
    """Return the output of a command in a terminal of so many columns, or into a pipe if None."""

    def run(columns: int | None, *arguments: str) -> str:
        config = str(ini_file("good"))
        command = [sys.executable, "-m", heartbeat.__name__, *arguments, "-c", config]
        if columns is not None:
            command = [sys.executable, "-c", IN_TERMINAL, str(columns), *command]
        environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
        environment.pop("COLUMNS", None)
        done = subprocess.run(  # noqa: S603 - our own command
            command, env=environment, capture_output=True, check=True, encoding="utf-8"
        )
        return done.stdout

    return run


@pytest.mark.parametrize("columns", [None, 200, 80, 40])
def test_names_are_whole_at_any_width(
    typed: Callable[..., str], command: Command, dbsession: Session, columns: int | None
) -> None:
    dbsession.add(data_flow(name=LONG, handler="good"))
    dbsession.commit()
    command("run", LONG, flows="good")

    for listing in ("flows", "runs"):
        assert LONG in typed(columns, listing), listing


def test_a_pipe_gets_a_line_for_each_flow(typed: Callable[..., str], dbsession: Session) -> None:
    dbsession.add(data_flow(name=LONG, handler="good", description="very long " * 40))
    dbsession.commit()

    header, *lines = typed(None, "flows").splitlines()

    assert header.split()[:2] == ["flow", "schedule"]
    assert [line.split()[0] for line in lines] == [LONG, "good"]


def test_programs_read_the_same_members_from_commands_and_over_http(
    command: Command, call: Call
) -> None:
    """The fixtures' two applications share a database, not the flows that they declare."""
    [flow, *_] = json.loads(command("flows", "--json", flows="good").stdout)
    run = json.loads(command("run", "good", "--json", flows="good").stdout)

    assert {*call("GET", "/flows/good", status=200).json} == {*flow}
    assert call("GET", f"/runs/{run['id']}", status=200).json == run
    why = json.loads(command("why", "good", "--json", flows="good").stdout)
    assert {*why} == {*flow}


def test_replies_over_http_end_with_a_new_line(call: Call) -> None:
    assert call("GET", "/flows", status=200).body.endswith(b"}\n")
    assert call("GET", "/flows/none", status=404).body.endswith(b"}\n")


def test_the_version_is_that_of_the_engine() -> None:
    result = CliRunner().invoke(main, ["--version"])

    assert (result.exit_code, result.output) == (0, f"heartbeat, version {heartbeat.VERSION}\n")


def test_a_shell_completes_the_names_of_flows(
    command: Command,
    ini_file: Callable[..., Path],
    dbsession: Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command("flows")
    dbsession.add(data_flow(name="golden", handler="good"))
    dbsession.commit()
    monkeypatch.setenv("HEARTBEAT_CONFIG", str(ini_file("good bad")))

    for typed in (["run"], ["why"], ["change"], ["remove"], ["runs", "--flow"]):
        assert completions(typed, "go") == ["golden", "good"]
        assert completions(typed, "x") == []


def test_a_shell_completes_nothing_where_the_application_does_not_start(
    ini_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for config in ("missing.ini", str(ini_file("wrong"))):
        monkeypatch.setenv("HEARTBEAT_CONFIG", config)

        assert completions(["run"], "go") == []


def completions(arguments: list[str], incomplete: str) -> list[str]:
    """Return the completions of a shell."""
    completion = ShellComplete(main, {}, "heartbeat", "_HEARTBEAT_COMPLETE")
    return [item.value for item in completion.get_completions(arguments, incomplete)]


@pytest.mark.parametrize("name", sorted(main.commands))
def test_the_values_of_options_have_names_that_mean_something(name: str) -> None:
    text = CliRunner().invoke(main, [name, "--help"]).output

    assert "FROMISOFORMAT" not in text
    assert " TEXT  " not in text.replace("--reason TEXT", "")
