"""Optional: runs of flows with a `timeout` have a process of their own, which is ended in time.

It is a new interpreter, not a fork of the server. It imports the flow's module, reads its orders
from one pipe and writes its answers to another: lines of JSON, each with a name and a value.
"""

import contextvars
import faulthandler
import json
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from logging.handlers import QueueHandler
from pathlib import Path
from typing import IO, Any, TextIO, cast

from pydantic import TypeAdapter
from pyramid.config import Configurator
from sqlalchemy import Connection, event
from sqlalchemy.orm import Session, SessionTransaction

from ..core import Heartbeat, SubprocessWork, make_heartbeat
from ..db import backend_of
from ..db.flow_session import FlowSession
from ..db.write_lock import LOCK_SECONDS
from ..definition import FlowDefinition
from ..durations import format_every
from ..errors import ClaimLostError, FlowProcessDied, FlowTimeout
from ..events import Event, FlowDisabled, RunEnded
from ..models import RunStatus
from ..redaction import shorten
from ..run import ClaimedRun, Run
from ..run_log import RunLog
from ..runs.execute import execute
from ..runs.finish import end_lost
from ..runs.record import write_end
from ..tracebacks import text_of

# The program of the new interpreter. Not multiprocessing, which would import the server's
# `__main__` in each child.
START = """
import os, pickle, sys
orders = open(os.dup(0), "rb")
sys.path[:] = pickle.load(orders)
pickle.load(orders)(orders)
"""
# The events of a child that its parent publishes.
_ENDS = TypeAdapter[RunEnded | FlowDisabled](RunEnded | FlowDisabled)
# The limit for a child's exit handlers after its run has ended, and for its end after a kill.
EXIT_SECONDS = 5.0
# The longest log line that a child sends, in characters: more than is kept with a run.
MAX_LINE = 100_000
# The interval at which a child is checked to be alive: a fork of it may keep the pipe open.
CHECK_EVERY = 1.0


def includeme(config: Configurator) -> None:
    """Add the option `timeout` of flows."""
    children = _Children(config.registry["heartbeat"])
    children.heartbeat.execute_in_subprocess = children.execute
    children.heartbeat.call_in_subprocess = children.call
    children.heartbeat.at_exit.append(children.kill)


class _Children:
    """The children of an application in this process."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self.heartbeat = heartbeat
        self.living: set[_Child] = set()
        self.exiting = False

    def execute(self, run: ClaimedRun, definition: FlowDefinition, run_log: RunLog) -> RunStatus:
        """Execute a claimed run in a child; return the status that it recorded.

        Raises FlowTimeout or FlowProcessDied, for the caller to record, if it ended without one.
        """
        heartbeat = self.heartbeat
        try:
            status = self.call(execute, run, definition.timeout or 0, run_log)
        except FlowProcessDied as error:
            lost, log_text = error, run_log.text(heartbeat.secrets)

            def write() -> RunStatus:
                # Its lease may be renewed at this moment, which locks its row.
                if end_lost(heartbeat, run, lost, log_text=log_text, skip_locked=False):
                    return RunStatus.FAILED
                raise ClaimLostError(run.id)

            return write_end(heartbeat, run, write)
        # Without an answer, we killed it: the end of this process records its runs.
        return RunStatus.FAILED if status is None else RunStatus(status)

    def call(self, work: SubprocessWork, run: ClaimedRun, seconds: float, run_log: RunLog) -> Any:
        """Call `work` in a child; return its answer, or None if this process ends meanwhile.

        Raises FlowTimeout or FlowProcessDied if the child ended without one.
        """
        heartbeat = self.heartbeat
        orders = _orders(heartbeat, run, work, seconds)
        child = _Child(heartbeat, run, run_log)
        self.living.add(child)
        try:
            in_time = child.work(orders, seconds)
        finally:
            self.living.discard(child)
            if child.answer is None and child.transaction is not None:
                backend = backend_of(heartbeat.engine)
                backend.end_transaction(heartbeat.engine, *child.transaction)
        if child.answer is not None or self.exiting:
            return child.answer
        if not in_time:
            raise FlowTimeout(f"ran longer than its timeout of {format_every(int(seconds))}")
        code = child.process.returncode
        exited = f"with exit code {code}"
        if code is not None and code < 0:
            exited = f"by signal {-code} ({signal.strsignal(-code)})"
        raise FlowProcessDied(
            f"its process ended before the flow, {exited}; the server's standard error may show why"
        )

    def kill(self) -> None:
        """Kill all children, at the exit of the server."""
        self.exiting = True
        for child in tuple(self.living):
            child.kill()


class _Child:
    """A run's process, seen from the thread that waits for it."""

    def __init__(self, heartbeat: Heartbeat, run: ClaimedRun, run_log: RunLog) -> None:
        self.publish, self.run_log = heartbeat.publish, run_log
        self.answer: Any = None
        self.transaction: tuple[int, str] | None = None
        self.deadline = 0.0
        # The last argument identifies the run in a list of processes. In a session of its own, a
        # terminal's Ctrl-C does not reach it, and all processes that it starts are in its group.
        self.process = subprocess.Popen(  # noqa: S603 - this interpreter, with the lines above
            [_interpreter(), "-P", "-u", "-c", START, f"run {run.id} of {run.flow_name}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def work(self, orders: bytes, seconds: float) -> bool:
        """Send the orders and wait for the end of the process; return whether it came in time.

        Afterwards the process and all that it has started are killed.
        """
        self.deadline = time.monotonic() + seconds
        # In this context, to which the lines of the child belong.
        within = contextvars.copy_context().run
        talk = threading.Thread(
            target=within, args=(self._talk, orders), name="heartbeat-child", daemon=True
        )
        try:
            talk.start()
            while talk.is_alive() and self.process.poll() is None:
                if (left := self.deadline - time.monotonic()) <= 0:
                    return False
                talk.join(min(left, CHECK_EVERY))
            return True
        finally:
            self.kill()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(EXIT_SECONDS)
            talk.join(EXIT_SECONDS)

    def kill(self) -> None:
        """Kill the process and all that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _talk(self, orders: bytes) -> None:
        """Send the orders, and read the answers until there are no more."""
        given, answers = cast("tuple[IO[bytes], ...]", (self.process.stdin, self.process.stdout))
        with suppress(BrokenPipeError), answers, given:
            given.write(orders)
            given.flush()
            for line in answers:
                if line.endswith(b"\n"):  # else it died in the middle of it
                    self._take(*json.loads(line))

    def _take(self, name: str, value: Any) -> None:
        if name == "log":
            record = logging.makeLogRecord(value)
            own = self.run_log.logger
            (own if record.name == own.name else logging.getLogger(record.name)).handle(record)
        elif name == "event":  # the child has logged it
            self.publish(_ENDS.validate_json(value))
        elif name == "transaction":
            self.transaction = value
        elif name == "returned":  # its end is recorded, which may wait for SQLite's lock
            self.deadline = time.monotonic() + LOCK_SECONDS
        else:
            self.answer = value
            self.deadline = min(self.deadline, time.monotonic() + EXIT_SECONDS)


def _orders(heartbeat: Heartbeat, run: ClaimedRun, work: SubprocessWork, seconds: float) -> bytes:
    """Return the orders of a child: first for its start, then for its run."""
    loggers = (logging.root, *logging.root.manager.loggerDict.values())
    levels = {each.name: each.level for each in loggers if isinstance(each, logging.Logger)}
    # The condition was checked before, and may be a lambda.
    declared = heartbeat.flows[run.handler].model_copy(update={"when": None})
    given = (heartbeat.settings, heartbeat.engine.url, heartbeat.clock, declared, run, work)
    return b"".join(map(pickle.dumps, (sys.path, _work, seconds, levels, given)))


def _interpreter() -> str:
    """Return the path of Python: under uWSGI and the like, `sys.executable` is the server."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folders = (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)
    names = (version, "python3", "python")
    found = [Path(folder, "bin", name) for folder in folders for name in names]
    for path in (Path(sys.executable or ""), *found):
        if re.fullmatch(r"(python|pypy)[\d.]*\w?(\.exe)?", path.name) and os.access(path, os.X_OK):
            return str(path)
    raise FlowProcessDied(f"there is no {version} below {' or '.join(dict.fromkeys(folders))}")


def _work(orders: IO[bytes]) -> None:
    """Execute the run of the orders: the main function of a child."""
    answers = _Answers(os.fdopen(os.dup(1), "w"))
    # Processes that the flow starts must not read orders, and its output must not mix with answers.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    # A service manager may send it to all processes of the service: the server handles it.
    signal.signal(signal.SIGTERM, lambda *_: None)
    # Ends this process even if the parent is stopped, or was killed while the flow blocks all other
    # threads of the interpreter.
    faulthandler.dump_traceback_later(pickle.load(orders) + EXIT_SECONDS, exit=True)  # noqa: S301
    logging.root.addHandler(answers)
    for name, level in pickle.load(orders).items():  # noqa: S301 - all of it is from our parent
        logging.getLogger(name).setLevel(level)
    settings, url, clock, definition, run, work = pickle.load(orders)  # noqa: S301
    threading.Thread(target=_end_with_parent, args=(orders.fileno(),), daemon=True).start()

    def report_begin(_: Session, transaction: SessionTransaction, connection: Connection) -> None:
        if not transaction.nested:
            answers.send("transaction", backend_of(connection).open_transaction(connection))

    event.listen(FlowSession, "after_begin", report_begin)
    heartbeat = make_heartbeat(settings, url)
    heartbeat.clock = clock
    function, process = definition.function, os.getpid()

    def call(run: Run) -> object:
        try:
            return function(run)
        finally:
            if os.getpid() == process:  # and not one that the flow has forked
                faulthandler.cancel_dump_traceback_later()
                answers.send("returned", None)

    if work is execute:
        definition = definition.model_copy(update={"function": call})
    heartbeat.flows[run.handler] = definition
    heartbeat.subscribers.append(lambda happened: _send_end(answers, happened))
    answers.send("answer", work(heartbeat, run))
    heartbeat.dispose()


def _send_end(answers: "_Answers", happened: Event) -> None:
    if isinstance(happened, RunEnded | FlowDisabled):
        answers.send("event", _ENDS.dump_json(happened).decode())


def _end_with_parent(orders: int) -> None:
    """Wait until the parent closes its pipe, at the latest when it dies, and end at once."""
    os.read(orders, 1)
    os.killpg(0, signal.SIGKILL)


class _Answers(QueueHandler):
    """Sends answers to the parent, and all log records, with tracebacks as text."""

    def __init__(self, pipe: TextIO) -> None:
        super().__init__(cast("Any", pipe))  # in place of the queue, which only `enqueue` uses
        self.pipe = pipe
        self.writing = threading.Lock()

    def send(self, name: str, value: object) -> None:
        """Send one answer."""
        line = json.dumps([name, value], default=text_of)
        with self.writing:
            print(line, file=self.pipe, flush=True)

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send a record, whose message is already formatted."""
        record.msg = record.message = shorten(record.msg, MAX_LINE)
        self.send("log", vars(record))
