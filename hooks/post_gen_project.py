"""After rendering: hands over to the project's own set-up, scripts/bootstrap.py.

Always leaves with 0, since cookiecutter deletes the new project otherwise. Plain Python before
rendering, like the other hook.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

# JSON never holds three bare quotes in a row, and a raw string keeps its backslashes:
# no answer can break out of this string.
ANSWERS = r"""{{ cookiecutter | tojson }}"""

# The names that Python's tempfile gives to a new folder, as cruft asks for it.
SCRATCH_NAME = re.compile(r"tmp[a-z0-9_]{8}")


def main() -> None:
    """Set the project up, unless this is a rehearsal of cruft's or the user has said no."""
    project = Path.cwd()
    by_hand = f"cd {shlex.quote(str(project))} && make setup"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        if is_rehearsal(json.loads(ANSWERS), project):
            return
        if os.environ.get("HEARTBEAT_SETUP") == "0":
            print(f"Set-up skipped (HEARTBEAT_SETUP=0). When you want it: {by_hand}")
        else:
            set_up(project)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the project must stay
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        with contextlib.suppress(OSError):
            print(f"The set-up stopped ({reason}). To go on: {by_hand}", file=sys.stderr)


def is_rehearsal(answers: dict[str, Any], project: Path) -> bool:
    """Tell whether `cruft diff` or `cruft update` renders here only to compare and throw away.

    Both put the hook's words into the patch. `cruft create`, which is real, gives the same answers,
    so only the place tells them apart: alone in a fresh scratch folder of the temporary directory.
    """
    scratch = project.parent
    return (
        bool(answers.get("_commit"))
        and not answers.get("_output_dir")
        and SCRATCH_NAME.fullmatch(scratch.name) is not None
        and scratch.parent.resolve() == Path(tempfile.gettempdir()).resolve()
        and list(scratch.iterdir()) == [project]
    )


def set_up(project: Path) -> None:
    """Run the project's set-up in this process, where it hears Ctrl-C and SIGTERM itself."""
    sys.dont_write_bytecode = True  # no __pycache__ beside the user's scripts
    place = project / "scripts" / "bootstrap.py"
    spec = importlib.util.spec_from_file_location("bootstrap", place)
    if spec is None or spec.loader is None:
        raise ImportError(place)
    bootstrap = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = bootstrap  # dataclasses look their module up there
    spec.loader.exec_module(bootstrap)
    bootstrap.main(watch_parent=True)


def leave() -> None:
    """Exit with 0, even if the reader of the output has ended and Python would exit with 120."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
    leave()
