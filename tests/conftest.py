"""Shared by all tests: rendering, child processes, and a stand-in for uv and Python."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from cookiecutter.main import cookiecutter
from jinja2 import Template

if TYPE_CHECKING:
    from collections.abc import Iterator

TEMPLATE = Path(__file__).resolve().parent.parent
PROJECT = TEMPLATE / "{{cookiecutter.project_slug}}"

# They run within a rendered project: see test_engine.py.
collect_ignore = ["engine", "hosts"]

# What a set-up writes that nobody else may read.
SECRET_FILES = ("var/beat.token", "var/operator.token")

# How long anything may take that a test waits for, on a busy machine.
DEADLINE_SECONDS = 60.0

# Imported from the template's folder, a module must not leave its byte code there to be rendered.
sys.dont_write_bytecode = True

# Whoever runs the tests in the background has made them deaf to these, and every child with them;
# a signal that is handled, be it by nothing, is heard again by a child.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda _number, _frame: None)

# What tests of hooks and set-up find on their PATH besides the stand-in for uv, and nothing else: a
# uv of the machine's would win where a command puts its own folder first, as pyenv's shims do.
COMMANDS = ("awk", "basename", "cat", "cp", "env", "git", "make", "mkdir", "rm", "sh", "sleep")

# What a shell may have set for other programs, another project or a terminal: it is taken out of
# the environment of all tests. The Makefile does so with what changes pip, uv and Python itself.
OF_THE_SHELL = (
    *("HEARTBEAT_", "DATABASE_URL", "PYTHON", "CONDA", "VIRTUAL_ENV", "PYENV_VERSION"),
    *("MAKE", "MFLAGS", "COOKIECUTTER_", "GIT_", "TERM", "COLUMNS", "LINES", "CI"),
    *("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "PYTEST_", "COVERAGE_", "COV_"),
)

for variable in [name for name in os.environ if name.startswith(OF_THE_SHELL)]:
    del os.environ[variable]

# Plays uv and .venv/bin/python: notes each call, and does in each step what FAKE_<STEP> says.
# Empty: works. "hang": holds FAKE_ALIVE open and waits, with a child. "python": fails as a Python
# program does whose output waits in a buffer. Else: fails with that text.
FAKE_TOOL = """#!/bin/sh
echo "$(basename "$0") $*" >> "$FAKE_CALLS"
env > "$FAKE_CALLS.environment"
behave() {
  case "$1" in
    "") ;;
    hang*)
      test "$1" = hang || trap '' TERM
      exec 3>"$FAKE_ALIVE"
      echo $$ > "$FAKE_CALLS.hanging"
      sleep 600 &
      echo hanging >&3
      wait ;;
    python)
      "$FAKE_PYTHON" -c 'import sys; print("late words"); sys.exit("the cause")'
      exit 1 ;;
    *) echo "some words before"; echo "$1" >&2; exit 1 ;;
  esac
}
case "$*" in
  --version*) behave "$FAKE_VERSION" ;;
  venv*) behave "$FAKE_VENV"; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  *"pip install"*--offline) behave "$FAKE_OFFLINE" ;;
  *"pip install"*) behave "$FAKE_INSTALL" ;;
  *migrate*) behave "$FAKE_MIGRATE" ;;
esac
"""

# The least that hooks and set-up need of a project, so that their tests need nothing else.
SMALL_PROJECT = {
    ".gitignore": ".venv/\nvar/\n",
    "pyproject.toml": '[project]\nname = "{{ cookiecutter.project_slug }}"\nversion = "1"\n'
    'description = "{{ cookiecutter.description }}"\n'
    "[project.optional-dependencies]\ndev = []\n"
    '[build-system]\nrequires = ["flit_core"]\nbuild-backend = "flit_core.buildapi"\n',
    "constraints.txt": "",
}


class Render(Protocol):
    """Renders the template with the given answers and gives the project's folder."""

    def __call__(self, **answers: str) -> Path:
        """Render."""


@dataclass(frozen=True)
class Finished:
    """How a child process ended, and what it said."""

    status: int
    output: str
    errors: str

    @property
    def everything(self) -> str:
        """Both streams."""
        return self.output + self.errors


class Child:
    """A command in a process group of its own, as a terminal starts it."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def interrupt(self, number: signal.Signals) -> None:
        """Send a signal to the whole group, as Ctrl-C does."""
        os.killpg(self.process.pid, number)

    def finish(self, seconds: float = DEADLINE_SECONDS) -> Finished:
        """Wait until it has ended and nobody holds its output any more."""
        try:
            output, errors = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.interrupt(signal.SIGKILL)
            raise
        return Finished(self.process.returncode, output, errors)


class Tools:
    """A PATH whose uv is the stand-in, the environment that goes with it, and what it has seen."""

    def __init__(self, folder: Path) -> None:
        """Make the stand-in in a folder."""
        self.calls_file = folder / "calls"
        self.alive = folder / "alive"
        os.mkfifo(self.alive)
        # Open for reading before anybody writes: a writer waits for a reader.
        self._reader = os.open(self.alive, os.O_RDONLY | os.O_NONBLOCK)
        path = link_commands(folder / "bin", *COMMANDS)
        uv = folder / "bin" / "uv"
        uv.write_text(FAKE_TOOL)
        uv.chmod(0o755)
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("LANG", "LC_", "PIP_", "TEST_", "UV_"))
        } | {
            "PATH": path,
            "FAKE_CALLS": str(self.calls_file),
            "FAKE_ALIVE": str(self.alive),
            "FAKE_PYTHON": sys.executable,
        }

    def calls(self) -> list[str]:
        """Give the calls so far, oldest first."""
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []

    def seen_environment(self) -> dict[str, str]:
        """Give the environment of the last call."""
        lines = Path(f"{self.calls_file}.environment").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def wait_until_one_hangs(self) -> None:
        """Wait for the sign that a step has begun to hang."""
        assert self._read() == b"hanging\n"

    def end_the_hanging_one(self) -> None:
        """End a step that hangs, and its child, as a tool ends that is done at last."""
        os.killpg(int(Path(f"{self.calls_file}.hanging").read_text()), signal.SIGKILL)

    def wait_until_none_lives(self) -> None:
        """Wait for the end of every process that took part in hanging."""
        assert self._read() == b""

    def close(self) -> None:
        """Stop listening."""
        os.close(self._reader)

    def _read(self) -> bytes:
        """Read what is said; nothing once nobody is left who could say anything."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            ready, _, _ = select.select([self._reader], [], [], DEADLINE_SECONDS)
            if ready:
                return os.read(self._reader, 100)
        pytest.fail("no sign of the stand-in")


def link_commands(folder: Path, *names: str) -> str:
    """Make a folder that has these commands and a Python alone, to be the whole of a PATH."""
    folder.mkdir()
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for name in names:
        place = shutil.which(name, path=places)
        assert place, f"{name} is not installed"
        (folder / name).symlink_to(place)
    python = folder / "python3"
    # No link: an environment would be made of the folder that the link is in.
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(base_python())} "$@"\n')
    python.chmod(0o755)
    return str(folder)


def base_python() -> str:
    """Give the path of the Python that .venv was made by."""
    return os.path.realpath(sys.executable)


class SmallProject:
    """The least of a project, and the stand-in for uv."""

    def __init__(self, folder: Path, tools: Tools) -> None:
        """Take both."""
        self.folder = folder
        self.tools = tools

    def start(self, **environment: str) -> Child:
        """Begin to set the project up, from some other folder."""
        command = [sys.executable, str(self.folder / "scripts" / "bootstrap.py")]
        return Child(command, self.folder.parent, self.tools.environment | environment)

    def set_up(self, **environment: str) -> Finished:
        """Set the project up."""
        return self.start(**environment).finish()

    def secrets(self) -> list[str]:
        """Give what the token files hold."""
        return [(self.folder / name).read_text() for name in SECRET_FILES]


def cookiecutter_command(template: Path, config: Path, *more: str) -> list[str]:
    """Give the command that renders a template without asking."""
    options = ["--no-input", "--config-file", str(config), *more]
    return [sys.executable, "-m", "cookiecutter", str(template), *options]


def make_config(folder: Path) -> Path:
    """Write a configuration of cookiecutter's that leaves the home folder alone."""
    file = folder / "cookiecutter.yaml"
    file.write_text(f"replay_dir: {folder}/replay\ncookiecutters_dir: {folder}/cookiecutters\n")
    return file


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration of cookiecutter's that leaves the home folder alone."""
    return make_config(tmp_path)


def render_into(folder: Path, config: Path, **answers: str) -> Path:
    """Render this template, hooks and all, without setting the project up."""
    options = {"no_input": True, "accept_hooks": True, "config_file": str(config)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEARTBEAT_SETUP", "0")
        return Path(
            cookiecutter(
                str(TEMPLATE), None, extra_context=answers, output_dir=str(folder), **options
            )
        )


@pytest.fixture
def render(tmp_path: Path, config: Path) -> Render:
    """Renders this template, hooks and all, without setting the project up."""

    def render(**answers: str) -> Path:
        return render_into(tmp_path / "rendered", config, **answers)

    return render


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    """The stand-in for uv, first on the PATH."""
    folder = tmp_path / "tools"
    folder.mkdir()
    tools = Tools(folder)
    yield tools
    tools.close()


@pytest.fixture
def small_template(tmp_path: Path) -> Path:
    """This template's questions, hooks and set-up around a project that has nothing else."""
    template = tmp_path / "template"
    project = template / PROJECT.name
    shutil.copytree(
        TEMPLATE / "hooks", template / "hooks", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(TEMPLATE / "cookiecutter.json", template)
    make_small_project(project)
    return template


def make_small_project(project: Path) -> None:
    """Write the least of a project, with the real set-up and Makefile."""
    (project / "scripts").mkdir(parents=True)
    shutil.copy(PROJECT / "scripts" / "bootstrap.py", project / "scripts")
    makefile = Template((PROJECT / "Makefile").read_text(), keep_trailing_newline=True)
    answers = {"project_slug": "data_flows", "executor": "local"}
    (project / "Makefile").write_text(makefile.render(cookiecutter=answers))
    for name, text in SMALL_PROJECT.items():
        (project / name).write_text(text)


@pytest.fixture
def project(tmp_path: Path, tools: Tools) -> SmallProject:
    """A small project in a folder whose name has to be quoted."""
    folder = tmp_path / "two words" / "data_flows"
    make_small_project(folder)
    text = (folder / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(
        text.replace("{{ cookiecutter.project_slug }}", "data-flows")
    )
    return SmallProject(folder, tools)
