"""Set this project up: secrets, .venv, packages, database. Run it again to mend a half-done set-up.

Standard library only, since it runs before anything is installed: `make setup` calls it, and so
does the template when it has rendered the project.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

OLDEST_PYTHON = (3, 11)
TOKEN_BYTES = 32
LOOK_SECONDS = 0.05
GRACE_SECONDS = 2.0
LONGEST_CAUSE = 400

# All relative to the project's folder, which main() makes the current one.
VENV = Path(".venv")
VAR = Path("var")
LOG = VAR / "setup.log"
TOKEN_FILES = (VAR / "beat.token", VAR / "operator.token")

# Touched when all packages are installed: the Makefile compares its age with pyproject.toml's.
INSTALLED = VENV / "installed"

ON_WINDOWS = os.name == "nt"
BIN = VENV / ("Scripts" if ON_WINDOWS else "bin")
PYTHON = BIN / ("python.exe" if ON_WINDOWS else "python")
SHORT_FORM = "python scripts/bootstrap.py" if ON_WINDOWS else "make setup"

# These would send packages elsewhere, or bring in those of another environment.
MISLEADING = frozenset(
    {
        "PIP_PREFIX",
        "PIP_TARGET",
        "PIP_USER",
        "PYTHONHOME",
        "PYTHONPATH",
        "VIRTUAL_ENV",
        "__PYVENV_LAUNCHER__",
    }
)

# How pip and uv say that they found no way to the package index.
UNREACHABLE = re.compile(r"connection broken by|[Ff]ailed to fetch|error sending request")

# How the line begins that matters, pip's own first, and uv's lines that explain it.
ERROR_LINES = (
    re.compile(r"^\s*ERROR: (.+)", re.MULTILINE),
    re.compile(r"^\s*(?:error:|\u00d7) (.+)", re.MULTILINE),
)
REASON_LINE = re.compile(r"^\s*(?:cause:|Caused by:|\u2570\u2500\u25b6) (.+)", re.MULTILINE)


class StepError(Exception):
    """A step cannot work; the message is its cause, in one line."""


class StoppedError(Exception):
    """Somebody wants the set-up to end; the message says who."""


def main(*, watch_parent: bool = False) -> int:
    """Set the project up, and give the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    if sys.version_info < OLDEST_PYTHON:
        say_error(
            f"This is Python {dotted(sys.version_info[:2])}: use {dotted(OLDEST_PYTHON)} or newer."
        )
        return 1
    os.chdir(Path(__file__).resolve().parent.parent)
    try:
        slug = read_slug()
    except (OSError, ValueError, KeyError) as error:
        say_error(f"pyproject.toml does not tell the name of the project: {error}")
        return 1
    return SetUp(slug, listen_for_signals(), os.getppid() if watch_parent else None).run()


class SetUp:
    """The four steps, and the commands that they run."""

    def __init__(self, slug: str, received: list[int], parent: int | None) -> None:
        """Take the package's name, the signals received, and the parent if its end matters."""
        self.slug = slug
        self.received = received
        self.parent = parent
        self.has_uv = shutil.which("uv") is not None
        self.environment = {k: v for k, v in os.environ.items() if k not in MISLEADING} | {
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",  # nobody is there to answer
            "PYTHONUNBUFFERED": "1",  # the log keeps the order of errors and other lines
        }

    def run(self) -> int:
        """Take one step after the other, a printed line each, and say what comes next."""
        steps: tuple[tuple[str, Callable[[], str]], ...] = (
            ("secrets", self.make_secrets),
            ("environment", self.make_environment),
            ("install", self.install),
            ("migrate", self.migrate),
        )
        say(f"Setting up {self.slug} in {Path.cwd()}")
        for number, (name, step) in enumerate(steps):
            say(f"  {name} ".ljust(18, ".") + " ", end="")
            begin = time.monotonic()
            try:
                self.heed_stop()
                detail = step()
            except StoppedError as stop:
                say(f"stopped after {time.monotonic() - begin:.1f} s")
                self.say_what_is_left(f"The set-up was stopped by {stop}.", number)
                return 128 + self.received[0] if self.received else 1
            except (StepError, OSError) as error:
                say(f"failed after {time.monotonic() - begin:.1f} s")
                self.say_what_is_left(f"The step {name} failed: {error}", number)
                return 1
            say(f"{time.monotonic() - begin:.1f} s  {detail}")
        say_what_is_next()
        return 0

    def make_secrets(self) -> str:
        """Make the tokens, and the folder for all that git must not see."""
        VAR.mkdir(mode=0o700, exist_ok=True)
        VAR.chmod(0o700)
        (VAR / "inbox").mkdir(exist_ok=True)
        with open_private(LOG, os.O_TRUNC):
            pass  # the log tells of one set-up only
        made = [make_token(file) for file in TOKEN_FILES]
        names = " and ".join(map(str, TOKEN_FILES))
        return f"{names} {'made' if any(made) else 'kept'}"

    def make_environment(self) -> str:
        """Make .venv, unless it is there and works."""
        self.has_uv = self.has_uv and self.works(["uv", "--version"])
        if self.is_environment_whole():
            return f"{VENV} kept"
        remove(VENV)
        status, output = self.call(self.environment_command())
        if status:
            raise StepError(find_cause(output, status))
        return f"{VENV} made, Python {dotted(sys.version_info[:2])}"

    def is_environment_whole(self) -> bool:
        """Tell whether .venv can be installed into and its commands still find it.

        Debian without python3-venv leaves one without pip; a moved project has commands that begin
        with the old place.
        """
        pip = "" if self.has_uv else "import pip; "
        check = f"{pip}import sys; sys.exit(sys.version_info < {OLDEST_PYTHON})"
        pserve = BIN / "pserve"
        moved = pserve.is_file() and os.fsencode(VENV.absolute()) not in pserve.read_bytes()
        return PYTHON.exists() and not moved and self.works([str(PYTHON), "-c", check])

    def install(self) -> str:
        """Install the project with all that it needs, in the tested versions."""
        command = self.install_command()
        status, output = self.call(command)
        if status and self.has_uv:  # its cache may hold everything
            status, _ = self.call([*command, "--offline"])
        if status:
            raise StepError(find_cause(output, status))
        INSTALLED.touch()
        return f"with {'uv' if self.has_uv else 'pip'}"

    def migrate(self) -> str:
        """Bring the database up to date; the last line of a failure names its cause and mend."""
        status, output = self.call(self.migrate_command())
        if status:
            raise StepError(last_line(output) or f"exit status {status}")
        which = "of DATABASE_URL " if "DATABASE_URL" in os.environ else ""
        return f"database {which}up to date"

    def environment_command(self) -> list[str]:
        """Give the command that makes .venv, by the Python below the environment that runs us."""
        python = getattr(sys, "_base_executable", "") or sys.executable
        if self.has_uv:
            uv = ["uv", "venv", "--allow-existing", "--no-python-downloads"]
            return [*uv, "-p", python, str(VENV)]
        return [python, "-m", "venv", str(VENV)]

    def install_command(self) -> list[str]:
        """Give the command that installs the project into .venv."""
        what = ["-c", "constraints.txt", "-e", ".[dev]"]
        if self.has_uv:
            return ["uv", "pip", "install", "--no-python-downloads", "-p", str(PYTHON), *what]
        return [str(PYTHON), "-m", "pip", "install", *what]

    def migrate_command(self) -> list[str]:
        """Give the command that brings the database up to date."""
        return [str(PYTHON), "-m", f"{self.slug}.heartbeat", "migrate", "-c", "development.ini"]

    def works(self, command: list[str]) -> bool:
        """Tell whether a command exists and ends well."""
        try:
            return self.call(command)[0] == 0
        except OSError:
            return False

    def call(self, command: list[str]) -> tuple[int, str]:
        """Run a command to its end, its output into the log; give its exit status and that output.

        It gets a process group of its own, so that a stop can end all that it has started.
        """
        with open_private(LOG, os.O_APPEND) as log:
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            begin = log.tell()
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
            try:
                while child.poll() is None:
                    self.heed_stop()
                    time.sleep(LOOK_SECONDS)
            finally:
                end(child)
        return child.returncode, LOG.read_bytes()[begin:].decode(errors="replace")

    def heed_stop(self) -> None:
        """Stop if a signal came, or if the parent that wanted this set-up is gone."""
        if self.received:
            name = signal.Signals(self.received[0]).name
            raise StoppedError("Ctrl-C" if name == "SIGINT" else name)
        if self.parent is not None and os.getppid() != self.parent:
            raise StoppedError("the end of its parent process")

    def say_what_is_left(self, cause: str, number: int) -> None:
        """Name the cause and print the commands from this step on, to be pasted."""
        commands = [self.environment_command(), self.install_command(), self.migrate_command()]
        say_error("", " ".join(cause.split()), f"All output is in {LOG.absolute()}")
        say_error("", "The project is in place. What is left to do:", "")
        say_error(f"cd {shlex.quote(str(Path.cwd()))}")
        if number:  # the secrets have no command of their own
            say_error(*map(shlex.join, commands[number - 1 :]))
            say_error("", "or, in short:", "")
        say_error(SHORT_FORM)


def read_slug() -> str:
    """Give the name of the package, which is the name of the project."""
    tomllib = importlib.import_module("tomllib")  # late: an older Python must get to say so
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["name"]).replace("-", "_")


def listen_for_signals() -> list[int]:
    """From now on note the signals that ask for an end, instead of falling where we stand.

    An exception out of a signal handler could come between the start of a child and the moment
    when we know of it. What the caller ignores (nohup, a shell's &) stays ignored.
    """
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, note)
    return received


def make_token(file: Path) -> bool:
    """Write a new secret, readable by its owner only; keep one that is there.

    An empty file is what a set-up leaves that was killed before it could write.
    """
    if file.exists() and file.stat().st_size:
        file.chmod(0o600)
        return False
    file.unlink(missing_ok=True)
    with open_private(file, os.O_EXCL) as stream:
        stream.write(f"{secrets.token_urlsafe(TOKEN_BYTES)}\n".encode())
    return True


def open_private(file: Path, flag: int) -> io.BufferedWriter:
    """Open a file for writing that nobody else could ever read."""
    return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | flag, 0o600), "wb")


def remove(folder: Path) -> None:
    """Remove a folder, or the link to one, if it is there."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def end(child: subprocess.Popen[bytes]) -> None:
    """End a command that still runs, with everything that it has started."""
    if child.poll() is not None:
        return
    if ON_WINDOWS:
        child.kill()
    else:
        gone = contextlib.suppress(ProcessLookupError, PermissionError)
        with gone:
            os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS)
        with gone:
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def find_cause(output: str, status: int) -> str:
    """Find the line of a failed pip, uv or venv that a person would look for."""
    if "ensurepip is not" in output:
        return "this Python makes no environments; on Debian, Ubuntu: sudo apt install python3-venv"
    errors = [match[1] for pattern in ERROR_LINES for match in pattern.finditer(output)]
    reasons = REASON_LINE.findall(output)
    cause = errors[0] if errors else last_line(output) or f"exit status {status}"
    if errors and reasons:
        cause = f"{cause.rstrip(': ')}: {reasons[-1]}"
    if UNREACHABLE.search(output):
        cause = f"the package index cannot be reached: {cause}"
    return cause[:LONGEST_CAUSE]


def last_line(output: str) -> str:
    """Give the last line that holds anything."""
    lines = output.strip().splitlines()
    return lines[-1].strip() if lines else ""


def say_what_is_next() -> None:
    """Print the lines that serve the project and send it a first beat."""
    say("\nReady. Serve it, and call it from a second terminal in the same folder:\n")
    say(f"cd {shlex.quote(str(Path.cwd()))}")
    say(f"{BIN / 'pserve'} development.ini")
    secret = f"$(cat {TOKEN_FILES[0].as_posix()})"
    say(f'curl -X POST -H "Authorization: Bearer {secret}" http://localhost:6543/heartbeat')


def dotted(version: tuple[int, ...]) -> str:
    """Write a version with dots."""
    return ".".join(map(str, version))


def say(text: str, end: str = "\n") -> None:
    """Print at once; a reader who has gone away does not stop the set-up."""
    with contextlib.suppress(OSError):
        print(text, end=end, flush=True)


def say_error(*lines: str) -> None:
    """Print lines where errors belong."""
    for line in lines:
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
