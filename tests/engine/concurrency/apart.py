"""Flows with a `timeout`. They stand at the top of a module, where their processes find them.

What they have to tell the test, they tell by files in the folder that their configuration names.
"""

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import event, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from data_flows.heartbeat import Run

from ..notes import Note
from ..odd_errors import HUGE, without_attributes, without_text

FOR_EVER = 3_600
SECONDS = 60
TOGETHER = 3

log = logging.getLogger(__name__)


def tell(run: Run, name: str, text: object = "") -> None:
    """Make a file for the test, whole at once."""
    unfinished = Path(run.configuration["folder"], f"{name}.unfinished")
    unfinished.write_text(str(text))
    unfinished.rename(unfinished.with_suffix(""))


def write(run: Run) -> None:
    """Write a row, and change the one that others want too."""
    values = {"name": run.flow_name, "mark": f"{run.flow_name} {run.attempt}", "size": 1}
    run.session.execute(insert(Note).values(values))
    run.session.execute(update(Note).where(Note.mark == "shared").values(size=2))


def start_another(run: Run) -> None:
    """Start a process that does not end by itself either."""
    program = f"import time; time.sleep({FOR_EVER})"
    process = subprocess.Popen([sys.executable, "-c", program])  # noqa: S603 - this interpreter
    tell(run, "grandchild", process.pid)


# ---------------------------------------------------------------------------------------------
# Flows that end


def returns_when_locked(run: Run) -> None:
    """Return when the test has locked the row of the flow."""
    tell(run, "inside")
    locked = Path(run.configuration["folder"], "locked")
    while not locked.exists():
        time.sleep(0.01)


def ends(run: Run) -> dict[str, int]:
    """Write, print and log."""
    write(run)
    print("printed")  # noqa: T201 - flows print
    run.log.info("logged by the run")
    log.debug("logged by the module: %s", run.flow_name)
    return {"process": os.getpid()}


def raises(run: Run) -> None:
    """Write, and fail with a secret in the message."""
    write(run)
    message = f"no such bird: {run.configuration['secret']}"
    raise LookupError(message)


def raises_oddly(_run: Run) -> None:
    """Fail with an error that answers nothing."""
    raise without_attributes()


def logs_oddly(run: Run) -> None:
    """Write, and log what can hardly be formatted."""
    write(run)
    run.log.info("before")
    run.log.info("%s", without_text(), extra={"odd": without_text()})
    run.log.info("with an odd member", extra={"odd": without_text()})
    run.log.info("x" * HUGE)
    error = without_attributes()
    run.log.error("failed", exc_info=(type(error), error, None))
    run.log.info("after")


def swallows(run: Run) -> None:
    """Let a database error pass, and write on."""
    with suppress(IntegrityError):
        run.session.execute(insert(Note).values(name="again", mark="shared", size=1))
    with suppress(Exception):
        write(run)


def meets(run: Run) -> None:
    """End when all others of its kind have begun."""
    tell(run, f"{run.flow_name} is here")
    deadline = time.monotonic() + SECONDS
    while len(list(Path(run.configuration["folder"]).glob("* is here"))) < TOGETHER:
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


def leaves_a_thread(run: Run) -> None:
    """Write and end, but leave something that keeps the process from its exit."""
    write(run)
    threading.Thread(target=time.sleep, args=[FOR_EVER]).start()


def looks_around(run: Run) -> dict[str, Any]:
    """Tell what the process has got from the one that started it."""
    files = Path("/dev/fd").iterdir()
    known = {os.fstat(int(file.name)).st_ino for file in files if file.exists()}
    return {
        "words": [*sys.orig_argv, json.dumps(dict(os.environ))],
        "main": sys.modules["__main__"].__dict__.get("__file__"),
        "socket": run.configuration["socket"] in known,
        "input": sys.stdin.read(),
    }


# ---------------------------------------------------------------------------------------------
# Flows whose process dies


def exits(run: Run) -> None:
    """Write, and take the process away, at the first attempt."""
    write(run)
    run.log.info("about to exit")
    if run.attempt == 1:
        os._exit(3)


def crashes(run: Run) -> None:
    """Write, and be killed as for want of memory."""
    write(run)
    os.kill(os.getpid(), signal.SIGKILL)


def leaves_a_fork(run: Run) -> None:
    """Take the process away, but leave a copy of it that keeps all its pipes open."""
    process = os.fork()
    if process == 0:
        time.sleep(FOR_EVER)
    tell(run, "grandchild", process)
    os._exit(3)


def dies_after_commit(run: Run) -> None:
    """Have the process killed when all is committed, before it can tell."""
    write(run)
    event.listen(run.session, "after_commit", lambda _: os.kill(os.getpid(), signal.SIGKILL))


# ---------------------------------------------------------------------------------------------
# Flows that never end


def sleeps(run: Run) -> None:
    """Write, and sleep."""
    write(run)
    run.log.info("about to sleep")
    start_another(run)
    tell(run, "process", os.getpid())
    time.sleep(FOR_EVER)


def is_stubborn(run: Run) -> None:
    """Ignore signals, and start another process that ignores them."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start_another(run)
    tell(run, "process", os.getpid())
    while True:
        with suppress(BaseException):
            time.sleep(FOR_EVER)


def waits_for_the_server(run: Run) -> None:
    """Write, and execute a statement that takes an hour."""
    write(run)
    tell(run, "process", os.getpid())
    is_postgresql = run.session.get_bind().dialect.name == "postgresql"
    run.session.execute(select((func.pg_sleep if is_postgresql else func.sleep)(FOR_EVER)))


def holds_the_interpreter(run: Run) -> None:
    """Sleep without letting any other thread of the process do anything."""
    tell(run, "process", os.getpid())
    ctypes.PyDLL(None).sleep(FOR_EVER)


def served(folder: Path) -> list[tuple[str, Any, dict[str, Any]]]:
    """Return flows for servers in processes of their own: names, functions and options."""
    options = {"every": "1d", "configuration": {"folder": str(folder)}}
    return [("sleeps", sleeps, {**options, "timeout": "1h"})]


def served_for_long(folder: Path) -> list[tuple[str, Any, dict[str, Any]]]:
    """Return a flow for them that keeps its process from noticing anything."""
    options = {"every": "1d", "configuration": {"folder": str(folder)}}
    return [("holds", holds_the_interpreter, {**options, "timeout": "10s"})]
