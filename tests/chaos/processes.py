"""A rendered project that is installed, and the processes that serve it."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from conftest import make_config, render_into
from test_project import SERVING, user_environment

from .audit import History, read_history
from .network import Network

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

INSIDE = Path(__file__).parent / "inside"
DRIVERS = ("psycopg[binary]", "pymysql[rsa]")
TOKEN = "what-chaos-beats-with-and-nobody-else"  # noqa: S105 - no secret
PATIENCE_SECONDS = 120.0
LEASE_SECONDS = 3

INI = """
[app:main]
use = call:application:main
sqlalchemy.url = {url}
heartbeat.token = {token}
heartbeat.lease = {lease}s
heartbeat.wait = 2s
heartbeat.shutdown_grace = 3s
chaos.folder = {folder}
chaos.flows = {flows}
{more}

[server:main]
use = {server}
listen = 127.0.0.1:0
threads = {threads}

[loggers]
keys = root

[handlers]
keys = console

[formatters]
keys = plain

[logger_root]
level = INFO
handlers = console

[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = plain

[formatter_plain]
format = %(asctime)s %(levelname)s %(name)s [%(threadName)s] %(message)s
"""


@dataclass(frozen=True)
class Project:
    """A project with its packages and the drivers of all databases in `.venv`."""

    folder: Path
    environment: dict[str, str]
    # The settings of its applications, beside those of all.
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        """The folder that holds its package."""
        return self.folder / "src"


def install(folder: Path, executor: str = "local") -> Project:
    """Render the project with its defaults but the executor, and install it."""
    environment = user_environment(folder)
    rendered = render_into(folder, make_config(folder), executor=executor)
    make = ["uv", "venv", "--quiet", "--python", sys.executable, ".venv"]
    fill = ["uv", "pip", "install", "--quiet", "--python", ".venv/bin/python"]
    extras = "production" if executor == "local" else f"production,{executor}"
    packages = ["--editable", f".[{extras}]", "--constraint", "constraints.txt", *DRIVERS]
    for command in (make, [*fill, *packages]):
        subprocess.run(command, cwd=rendered, env=environment, check=True)
    return Project(rendered, environment)


@dataclass(frozen=True)
class Reply:
    """What a beat was answered; `status` is 0 where no answer came."""

    status: int
    body: dict[str, Any]
    sent_at: datetime
    answered_at: datetime


@dataclass(frozen=True)
class OwnKill:
    """When a process has killed itself: after a claim, or before a record."""

    at: datetime
    moment: str


class Process:
    """A process that serves the application, from its start to its end."""

    takes_beats = True

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str],
        log_file: Path,
        network: Network | None = None,
    ) -> None:
        """Start it; it listens a moment later. `network` leads to its database, if any does."""
        self.command, self.log_file, self.network = command, log_file, network
        self._port = 0
        with log_file.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def id(self) -> int:
        """The number that the system gave it."""
        return self._process.pid

    @property
    def ids(self) -> list[int]:
        """The numbers of all processes that belong to it."""
        return [self.id]

    @property
    def ended(self) -> bool:
        """Whether it is no more."""
        return self._process.poll() is not None

    @property
    def exit_code(self) -> int | None:
        """How it ended, if it has: minus the number of a signal that ended it."""
        return self._process.poll()

    @property
    def log(self) -> str:
        """All that it has said."""
        return self.log_file.read_text(errors="replace")

    @property
    def is_cut_off(self) -> bool:
        """Whether its network is silent or slow as a whole."""
        return self.network is not None and self.network.is_cut_off

    @property
    def last_words(self) -> str:
        """The last line that it has said."""
        return "".join(self.log.splitlines()[-1:])

    @property
    def port(self) -> int:
        """Where it listens; 0 before it does."""
        if not self._port and (match := SERVING.search(self.log)):
            self._port = int(match[1])
        return self._port

    @property
    def is_ready(self) -> bool:
        """Whether it has begun to serve."""
        return self.port > 0

    def wait_until_ready(self) -> None:
        """Wait until it serves."""
        wait_until(lambda: self.ended or self.is_ready, f"{self.log_file} is ready")
        if self.ended:
            raise RuntimeError(f"a server has ended:\n{self.log}")

    def beat(self, wait: int = 2, patience: float = PATIENCE_SECONDS, prefer: str = "") -> Reply:
        """Call the heartbeat; `wait` is what it may take to answer, in seconds."""
        sent_at = datetime.now(UTC)
        status, body = 0, {}
        preferences = ", ".join(filter(None, [f"wait={wait}", prefer]))
        headers = {"Authorization": f"Bearer {TOKEN}", "Prefer": preferences}
        try:
            with closing(HTTPConnection("127.0.0.1", self.port, timeout=patience)) as line:
                line.request("POST", "/heartbeat", headers=headers)
                answer = line.getresponse()
                body = json.loads(answer.read())
                status = answer.status
        except (OSError, HTTPException, ValueError) as error:
            body = {"error": repr(error)}
        return Reply(status, body, sent_at, datetime.now(UTC))

    def kill(self) -> None:
        """End it as `kill -9` does, and wait until it is gone."""
        self._process.kill()
        self._process.wait(PATIENCE_SECONDS)

    def terminate(self) -> None:
        """Ask it to end, as a service manager does."""
        self._process.terminate()

    def dump(self) -> None:
        """Make it write to its log what each of its threads does."""
        if self.is_ready and not self.ended:
            said = len(self.log)
            self._process.send_signal(signal.SIGUSR2)
            wait_until(lambda: len(self.log) > said or self.ended, "it tells what it does")

    def stop(self) -> None:
        """Stop it, so that it does nothing until it goes on."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)


class Worker(Process):
    """A Celery worker: the parent takes messages, and the processes of its pool execute runs."""

    takes_beats = False
    pool = "prefork"
    _is_ready = False

    @property
    def children(self) -> list[int]:
        """The numbers of the processes of its pool; a pool of threads has none."""
        files = Path(f"/proc/{self.id}/task").glob("*/children")
        return [int(number) for file in files for number in file.read_text().split()]

    @property
    def ids(self) -> list[int]:
        """The numbers of the parent and its pool."""
        return [self.id, *self.children]

    @property
    def is_ready(self) -> bool:
        """Whether it takes messages."""
        self._is_ready = self._is_ready or " serves " in self.log
        return self._is_ready

    @property
    def left_behind(self) -> list[int]:
        """The numbers of its processes that are alive, whether or not the parent is."""
        own = "\0".join(self.command).encode()
        found = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it has ended meanwhile
                if own in file.read_bytes():
                    found.append(int(file.parent.name))
        return found

    def kill(self) -> None:
        """End all its processes at once."""
        self._process.send_signal(signal.SIGSTOP)  # it starts no more of them
        self.signal_all(signal.SIGKILL)
        self._process.wait(PATIENCE_SECONDS)

    def kill_parent(self) -> None:
        """End the parent alone: its pool is left behind."""
        super().kill()

    def stop(self) -> None:
        """Stop all its processes."""
        self.signal_all(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let all its processes go on."""
        self.signal_all(signal.SIGCONT)

    def end_left_behind(self) -> None:
        """End the processes of its pool that the parent has left behind."""
        for each in self.left_behind:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to all its processes, the parent first."""
        for each in self.ids:
            with suppress(ProcessLookupError):
                os.kill(each, number)


class Site:
    """One database, and what is served on it, in a folder of its own."""

    def __init__(
        self,
        project: Project,
        folder: Path,
        url: str,
        flows: str,
        source: Path | None = None,
    ) -> None:
        """Make database and tables; `source` holds another package than the project's own."""
        self.project, self.folder, self.url = project, folder, url
        self.processes: list[Process] = []
        folder.mkdir(parents=True, exist_ok=True)
        for file in INSIDE.glob("*.py"):
            shutil.copy(file, folder)
        # Before site-packages and what is named there, which is where the project is found else.
        places = [str(folder), *([str(source)] if source else [])]
        self.environment = project.environment | {"PYTHONPATH": os.pathsep.join(places)}
        own = configparser.RawConfigParser()
        own.read(project.folder / "production.ini")
        self.ini = folder / "chaos.ini"
        self.ini.write_text(
            INI.format(
                url=url.replace("%", "%%"),
                token=TOKEN,
                lease=LEASE_SECONDS,
                folder=folder,
                flows=flows,
                more="\n".join(f"{name} = {value}" for name, value in project.settings.items()),
                server=own["server:main"]["use"],
                threads=own["server:main"]["threads"],
            )
        )
        self.run("heartbeat", "migrate", "-c", str(self.ini))
        self.ask("prepare")

    def start(self) -> Process:
        """Start a process more."""
        command = [str(self.project.folder / ".venv" / "bin" / "pserve"), str(self.ini)]
        log_file = self.folder / f"process_{len(self.processes):03}.log"
        network, environment = None, self.environment
        if urlsplit(self.url).port:
            network = Network(self.url)
            environment = environment | {"DATABASE_URL": network.url}
        process = Process(command, environment, log_file, network)
        self.processes.append(process)
        return process

    def start_worker(self, queue: str, pool: str) -> Worker:
        """Start a Celery worker that takes messages from a queue."""
        number = len(self.processes)
        module = "data_flows.heartbeat.optional.celery.worker"
        command = [str(self.project.folder / ".venv" / "bin" / "celery"), "-A", module, "worker"]
        worker = Worker(
            [*command, "-Q", queue, "-P", pool, "-n", f"{number}@%h"],
            self.environment | {"HEARTBEAT_CONFIG": str(self.ini)},
            self.folder / f"process_{number:03}.log",
        )
        worker.pool = pool
        self.processes.append(worker)
        return worker

    def start_all(self, number: int) -> list[Process]:
        """Start so many processes, and wait until all listen."""
        processes = [self.start() for _ in range(number)]
        for process in processes:
            process.wait_until_ready()
        return processes

    def ask(self, what: str) -> Any:  # noqa: ANN401 - JSON may be anything
        """Let the ledger do something with the database, and give what it prints."""
        return json.loads(self.run("python", str(self.folder / "ledger.py"), what, self.url))

    def run(self, program: str, *arguments: str) -> str:
        """Run one of the project's programs, and give what it prints."""
        done = subprocess.run(
            [f".venv/bin/{program}", *arguments],
            cwd=self.project.folder,
            env=self.environment,
            capture_output=True,
            check=False,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        if done.returncode:
            raise RuntimeError(f"{program} {arguments}: {done.stderr}")
        return done.stdout

    def own_kill(self, process_id: int) -> OwnKill | None:
        """Return when and where a process has killed itself, if it has."""
        file = self.folder / "own kills"
        for line in file.read_text().splitlines() if file.exists() else []:
            number, at, moment = line.split()
            if int(number) == process_id:
                return OwnKill(datetime.fromisoformat(at), moment)
        return None

    def history(self) -> History:
        """Read all that has happened."""
        file = self.folder / "done"
        lines = file.read_text().splitlines() if file.exists() else []
        dumped = self.ask("dump")
        # For whoever looks into it afterwards: the database may be gone then.
        (self.folder / "history.json").write_text(json.dumps(dumped))
        return read_history(dumped, [int(line.split()[0]) for line in lines])

    def close(self) -> None:
        """End all processes that are left."""
        for process in self.processes:
            if not process.ended:
                process.kill()
            if isinstance(process, Worker):
                process.end_left_behind()
            if process.network is not None:
                process.network.proxy.close()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds; raise TimeoutError, with `what` should, if it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.05)


def complaints(processes: Sequence[Process]) -> Counter[str]:
    """Give the last lines of all backtraces that processes have written, and how often."""
    ends = re.compile(r"^Traceback .*\n(?:(?:[ \t].*)?\n)*(\S.*)$", re.MULTILINE)
    found = (end for process in processes for end in ends.findall(process.log))
    return Counter(re.sub(r"0x[0-9a-f]+|\d+", "N", end) for end in found)
