"""Errors at start, in one line each: what happened, where, and what to do.

Imported before everything else, and with the standard library alone, so that a missing package is
reported like any other error.
"""

import re
import sys
import sysconfig
import traceback
from configparser import InterpolationError
from pathlib import Path
from types import TracebackType
from typing import Any

from .printing import printable
from .redaction import describe_error, error_text, redact

# The programs whose errors are printed in this form, each with its options for a traceback. Other
# programs that import the engine are not changed.
PROGRAMS = {"heartbeat": ["--debug"], "pserve": ["-v", "--verbose"]}
# While `python -m` imports the package, only the original arguments have its name.
_RUN_BY_NAME = sys.argv[0] == "-m" and __package__ in sys.orig_argv
PROGRAM = "heartbeat" if _RUN_BY_NAME else Path(sys.argv[0]).stem

_LIBRARIES = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<")


def explain(error: BaseException, ini_file: str = "") -> list[str]:
    """Return a line for each problem that stopped the start, without secrets."""
    info: Any = None
    if type(error).__name__ == "ConfigurationExecutionError":
        # Pyramid wraps the error of a deferred action, and knows the place of the action.
        info, error = vars(error)["info"], vars(error)["evalue"]
    frames = _frames(error)
    places = [place for place, is_ours in frames if is_ours]
    if info and not places:
        places = [f"{info.file}, line {info.line}"]
    errors = sys.modules.get(f"{__package__}.errors")
    if errors and isinstance(error, errors.DataFlowError):
        lines = str(error).splitlines()
    elif isinstance(error, ModuleNotFoundError) and not _is_ours(error.name):
        lines = [_explain_missing(str(error.name), frames, ini_file)]
    elif isinstance(error, SyntaxError):
        lines = [f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"]
    elif ini_file and not places:
        lines = [f"{ini_file} cannot be used: {_file_problem(error)}"]
    else:
        where = f"{places[-1]}: " if places else ""
        flag = PROGRAMS.get(PROGRAM, ["--debug"])[0]
        lines = [f"{where}{error_text(error)} ({flag} shows the traceback)"]
    return [printable(redact(line).replace("\n", " ")) for line in lines]


def is_debugging() -> bool:
    """Return whether this program has an option for tracebacks."""
    return any(flag in sys.argv for flag in PROGRAMS.get(PROGRAM, ()))


def _file_problem(error: BaseException) -> str:
    if isinstance(error, InterpolationError):  # its message may contain a part of a password
        option = f"{error.option!r} in [{error.section}]"
        return f"{option} has a % that names no variable: write %% for each % of a value"
    message = error_text(error)
    if missing := re.search(r"No section '(.+)' \(prefixed by '(.+?)'", message):
        return f"it has no section [{missing[2]}:{missing[1]}]: add it, or name another file"
    return f"{message}: fix it, or name another file"


def _explain_missing(module: str, frames: list[tuple[str, bool]], ini_file: str) -> str:
    message = f"the package {module} is not installed"
    place, is_ours = frames[-1] if frames else ("", False)
    # Another package imports what the .ini file names, so the place of the import does not help.
    text = "" if is_ours or not ini_file else Path(ini_file.partition("#")[0]).read_text("utf-8")
    if not re.search(rf"\b{re.escape(module)}\b", text):
        message += f", which {place} imports"
        return f"{message}: run `make setup`, which installs the packages of pyproject.toml"
    message += f", which {ini_file} names: run `make setup`"
    if "production" in ini_file:
        return message
    return f"{message}; in production use production.ini, by -c or HEARTBEAT_CONFIG=production.ini"


def _is_ours(module: str | None) -> bool:
    return (module or "").partition(".")[0] == __name__.partition(".")[0]


def _frames(error: BaseException) -> list[tuple[str, bool]]:
    """Return the places of an error, innermost last, and whether each is the project's own code."""
    frames: list[tuple[str, bool]] = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        module = frame.f_globals.get("__name__", "")
        # An installed project is among the libraries, too: its name identifies it.
        is_ours = _is_ours(module) or not file.startswith(_LIBRARIES)
        frames.append((f"{file}, line {line}", is_ours and module != "__main__"))
    return frames


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an uncaught error; for `sys.excepthook`."""
    if not issubclass(kind, Exception):
        sys.__excepthook__(kind, error, trace)
        return
    if is_debugging():
        sys.stderr.write(describe_error(error)["error_backtrace"] + "\n")
    files = [word for word in sys.argv[1:] if Path(word.partition("#")[0]).is_file()]
    lines = explain(error, files[0] if files else "")
    sys.stderr.writelines(f"Error: {line}\n" for line in lines)


if PROGRAM in PROGRAMS:
    sys.excepthook = _report
