"""Set this project up: secrets, .venv, packages, database. Run it again to finish or to repair it.

Standard library only, since it runs before anything is installed: `make setup` calls it, and so
does the template when it has rendered the project.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import locale
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

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

OLDEST_PYTHON = (3, 11)
# Older ones read the path of the project by the locale's encoding, at each start.
READS_ANY_PATH = (3, 13)
TOKEN_BYTES = 32
LOOK_SECONDS = 0.05
GRACE_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 600
LONGEST_CAUSE = 400

# All relative to the project's folder, which main() makes the current one.
VENV = Path(".venv")
VAR = Path("var")
LOG = VAR / "setup.log"
TOKEN_FILES = (VAR / "beat.token", VAR / "operator.token")

# In .venv while packages are written into it: a set-up that finds this file makes .venv again.
UNFINISHED = VENV / "unfinished"
# Touched when all packages are installed: the Makefile compares its age with pyproject.toml's.
INSTALLED = VENV / "installed"

ON_WINDOWS = os.name == "nt"
BIN = VENV / ("Scripts" if ON_WINDOWS else "bin")
PYTHON = BIN / ("python.exe" if ON_WINDOWS else "python")
SHORT_FORM = "python scripts/bootstrap.py" if ON_WINDOWS else "make setup"
REMOVE_VENV = f"rmdir /s /q {VENV}" if ON_WINDOWS else f"rm -rf {VENV}"

# These would send packages elsewhere, bring in those of another environment, or colour the output.
MISLEADING = re.compile(
    r"PIP_|UV_|PYTHON|CONDA|VIRTUAL_ENV|__PYVENV_LAUNCHER__|COLUMNS|LINES|FORCE_COLOR|CLICOLOR_FORCE"
)
# But for those that name the package index, the way to it, and the cache.
NEEDED = re.compile(
    r"(PIP|UV)_(.*INDEX.*|FIND_LINKS|CONFIG_FILE|KEYRING_PROVIDER|PROXY|.*CERTS?|NATIVE_TLS|.*_HOST"
    r"|.*TIMEOUT|.*RETRIES|USE_FEATURE|USE_DEPRECATED|(NO_)?CACHE(_DIR)?|OFFLINE|LINK_MODE)|PYTHONUTF8"
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
    """The set-up must end; the message has the reason."""


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
        self.log: io.BufferedWriter
        self.has_uv = shutil.which("uv") is not None
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if NEEDED.fullmatch(name) or not MISLEADING.match(name)
        } | {
            "NO_COLOR": "1",
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
        self.log = open_private(LOG, os.O_APPEND)
        self.wait_for_another_setup()
        self.log.truncate(0)  # the log is about one set-up only
        made = [make_token(file) for file in TOKEN_FILES]
        names = " and ".join(map(str, TOKEN_FILES))
        return f"{names} {'made' if any(made) else 'kept'}"

    def wait_for_another_setup(self) -> None:
        """Lock the log, once no other set-up of this project holds it.

        Each command that writes into the log keeps the lock, too: one that a killed set-up has left
        behind may still be writing packages.
        """
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        if lock(self.log):
            return
        say("waits for another set-up ... ", end="")
        while not lock(self.log):
            if time.monotonic() > deadline:
                raise StepError(f"another set-up goes on, and writes to {LOG}: end it first")
            self.heed_stop()
            time.sleep(LOOK_SECONDS)

    def make_environment(self) -> str:
        """Make .venv, unless it is there and works."""
        self.has_uv = self.has_uv and self.works(["uv", "--version"])
        require_readable_path()
        problem = self.problem_of_environment() if os.path.lexists(VENV) else ""
        if VENV.is_dir() and not problem:
            return f"{VENV} kept"
        empty_environment()
        status, output = self.call(self.environment_command())
        if status:
            raise StepError(find_cause(output, status))
        reason = f"made again, since it {problem}" if problem else "made"
        return f"{VENV} {reason}, Python {dotted(sys.version_info[:2])}"

    def problem_of_environment(self) -> str:
        """Say why nothing can be installed into .venv, or its commands would not work.

        Debian without python3-venv leaves one without pip; a moved project has commands that begin
        with the old place.
        """
        if UNFINISHED.exists():
            return "was not finished"
        pip = "" if self.has_uv else "import pip; "
        check = f"{pip}import sys; sys.exit(sys.version_info < {OLDEST_PYTHON})"
        if not PYTHON.exists() or not self.works([str(PYTHON), "-c", check]):
            return f"had no working Python{'' if self.has_uv else ' with pip'}"
        pserve = BIN / "pserve"
        if pserve.is_file() and os.fsencode(VENV.absolute()) not in pserve.read_bytes():
            return "was made in another folder"
        missing = next(missing_files(), None)
        return f"lacked {os.path.relpath(missing, VENV)}" if missing else ""

    def install(self) -> str:
        """Install the project with all that it needs, in the tested versions."""
        was_installed = INSTALLED.exists()
        before = last_changes()
        if was_installed:
            INSTALLED.replace(UNFINISHED)  # with its time
        else:
            UNFINISHED.touch()
        try:
            self.run_installer()
        except (StepError, StoppedError, OSError):
            if last_changes() == before:  # it has not begun to write packages
                UNFINISHED.replace(INSTALLED)
                if not was_installed:
                    INSTALLED.unlink()
            raise
        UNFINISHED.replace(INSTALLED)
        INSTALLED.touch()
        return f"with {'uv' if self.has_uv else 'pip'}"

    def run_installer(self) -> None:
        """Install by uv or pip."""
        command = self.install_command()
        status, output = self.call(command)
        if status and self.has_uv:  # its cache may hold everything
            status, _ = self.call([*command, "--offline"])
        if status:
            raise StepError(find_cause(output, status))

    def migrate(self) -> str:
        """Bring the database up to date; the last line of a failure names its cause and the fix."""
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
        self.log.write(f"$ {shlex.join(command)}\n".encode())
        self.log.flush()
        begin = LOG.stat().st_size
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
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
        """Stop if a signal came, or if the parent process has ended."""
        if self.received:
            name = signal.Signals(self.received[0]).name
            raise StoppedError("Ctrl-C" if name == "SIGINT" else name)
        if self.parent is not None and os.getppid() != self.parent:
            raise StoppedError("the end of its parent process")

    def say_what_is_left(self, cause: str, number: int) -> None:
        """Name the cause and print the commands from this step on, to be pasted."""
        commands = [self.environment_command(), self.install_command(), self.migrate_command()]
        lines = [shlex.join(command) for command in commands[max(number - 1, 0) :]]
        if UNFINISHED.exists():
            lines = [REMOVE_VENV, *map(shlex.join, commands)]
        say_error("", " ".join(cause.split()), f"All output is in {LOG.absolute()}")
        say_error("", "The project is in place. What is left to do:", "")
        say_error(f"cd {shlex.quote(str(Path.cwd()))}")
        if number:  # the secrets have no command of their own
            say_error(*lines)
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


def lock(file: io.BufferedWriter) -> bool:
    """Lock a file for this process and its commands, unless others have locked it."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # not every file system has locks
    return True


def require_readable_path() -> None:
    """Raise StepError if Python would not find a project in a folder of this name."""
    if ON_WINDOWS or sys.version_info >= READS_ANY_PATH or str(Path.cwd()).isascii():
        return
    encoding = locale.getencoding()
    if encoding.lower() not in {"utf-8", "utf8"}:
        raise StepError(
            f"Python {dotted(sys.version_info[:2])} cannot read the name of this folder in a locale"
            f" with the encoding {encoding}: run `export LC_ALL=C.UTF-8` first, or move the project"
            " into a folder with a plain ASCII name"
        )


def empty_environment() -> None:
    """Make .venv an empty folder that is marked as unfinished, whenever this is interrupted."""
    if VENV.is_symlink():
        VENV.unlink()
    VENV.mkdir(exist_ok=True)
    UNFINISHED.touch()
    for path in VENV.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != UNFINISHED:
            path.unlink()


def package_folders() -> list[Path]:
    """Give the folders of .venv that packages are installed into."""
    return [*VENV.glob("lib/python*/site-packages"), *VENV.glob("Lib/site-packages")]


def last_changes() -> list[int]:
    """Give the times when packages or their commands were last added or removed."""
    return [folder.stat().st_mtime_ns for folder in (BIN, *package_folders())]


def missing_files() -> Iterator[Path]:
    """Find files that packages lack, as an interrupted installation leaves them."""
    for folder in package_folders():
        for package in sorted(folder.glob("*.dist-info")):
            record = package / "RECORD"
            descriptions = [file for file in (record, package / "METADATA") if is_empty(file)]
            yield from descriptions
            if not descriptions:
                with record.open(encoding="utf-8", errors="replace", newline="") as rows:
                    files = [folder / row[0] for row in csv.reader(rows) if row]
                yield from (file for file in files if file.suffix != ".pyc" and not file.exists())


def is_empty(file: Path) -> bool:
    """Tell whether a file is missing or holds nothing."""
    return not file.is_file() or not file.stat().st_size


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
    settings = Path("development.ini")
    if settings.is_file() and "heartbeat.executor = celery" in settings.read_text(encoding="utf-8"):
        say("\nIts flows are executed by a worker. Start one in another terminal: make worker")
    say("\nReady. Serve it, and call it from a second terminal in the same folder:\n")
    say(f"cd {shlex.quote(str(Path.cwd()))}")
    say(f"{BIN / 'pserve'} development.ini")
    secret = f"$({(BIN / 'heartbeat').as_posix()} token show)"
    say(f'curl -X POST -H "Authorization: Bearer {secret}" http://localhost:6543/heartbeat')


def dotted(version: tuple[int, ...]) -> str:
    """Write a version with dots."""
    return ".".join(map(str, version))


def say(text: str, end: str = "\n") -> None:
    """Print at once; a reader that has ended does not stop the set-up."""
    with contextlib.suppress(OSError):
        print(text, end=end, flush=True)


def say_error(*lines: str) -> None:
    """Print lines where errors belong."""
    for line in lines:
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
