"""Database servers of chaos's own: started in a folder, crashed, and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import closing
from pathlib import Path
from typing import Protocol

KINDS = ("sqlite", "postgresql", "mysql")
# Where Debian keeps the server's programs, which are not on the PATH.
POSTGRESQL = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
PLACES = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", *map(str, POSTGRESQL)])
PATIENCE_SECONDS = 60.0
# Several processes with a pool each, and the ones that were killed have not all been noticed.
CONNECTIONS = 300


class NotInstalledError(Exception):
    """A server's program is missing; the message names it."""


class Database(Protocol):
    """Where databases can be made, each by its name."""

    kind: str
    # Whether there is a server to crash.
    crashes: bool

    def url(self, name: str) -> str:
        """Give the URL of a database, which need not be there yet."""

    def start(self) -> None:
        """Start the server, and wait until it takes connections."""

    def crash(self) -> None:
        """End the server at once, as a crash does, and wait until it is gone."""

    def close(self) -> None:
        """End the server, and remove all databases."""


class SQLite:
    """A folder of files."""

    kind = "sqlite"
    crashes = False

    def __init__(self) -> None:
        """Make the folder."""
        self.folder = Path(tempfile.mkdtemp(prefix="heartbeat-chaos-"))

    def url(self, name: str) -> str:
        """Give the URL of a file."""
        return f"sqlite:///{self.folder}/{name}.sqlite"

    def start(self) -> None:
        """Do nothing: it has no server."""

    def crash(self) -> None:
        """Do nothing: it has no server."""

    def close(self) -> None:
        """Remove the files."""
        shutil.rmtree(self.folder)


class Server(ABC):
    """A database server on a free port of this machine, with its data in a temporary folder."""

    kind: str
    crashes = True
    # Who runs it where we are root, as whom it would refuse to.
    account: str
    programs: tuple[str, ...]
    # The hardest end that it is made for.
    crash_signal: signal.Signals

    def __init__(self) -> None:
        """Make the data folder; the server is started by `start`."""
        self.found = {name: find(name) for name in self.programs}
        self.folder = Path(tempfile.mkdtemp(prefix="heartbeat-chaos-"))
        self.data = self.folder / "data"
        self.process: subprocess.Popen[bytes] | None = None
        self.user: str | None = None
        if os.geteuid() == 0:
            self.user = self.account
            shutil.chown(self.folder, self.account)
        with closing(socket.create_server(("127.0.0.1", 0))) as probe:
            self.port: int = probe.getsockname()[1]
        if self.popen(self.preparation()).wait(PATIENCE_SECONDS):
            raise RuntimeError(self.log)

    @property
    def log(self) -> str:
        """All that the server has said."""
        return (self.folder / "log").read_text(errors="replace")

    @abstractmethod
    def preparation(self) -> list[str]:
        """Give the command that fills the data folder."""

    @abstractmethod
    def command(self) -> list[str]:
        """Give the command that serves."""

    def environment(self) -> dict[str, str]:
        """Give the variables that the server's programs need."""
        return {}

    def popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a command as the server's user; what it says goes into a file."""
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                # Its user may not write to that of the tests.
                env=os.environ | {"TMPDIR": str(self.folder)} | self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self.user,
                group=self.user,
                extra_groups=[] if self.user else None,
                start_new_session=True,
            )

    def start(self) -> None:
        """Start the server, and wait until it takes connections."""
        self.process = self.popen(self.command())
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self.log)
            time.sleep(0.05)

    def is_ready(self) -> bool:
        """Tell whether the server takes connections."""
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def crash(self) -> None:
        """End the server at once, as a crash does, and wait until it is gone."""
        if self.process is not None:
            self.process.send_signal(self.crash_signal)
            self.process.wait(PATIENCE_SECONDS)
            self.process = None

    def close(self) -> None:
        """End the server, and remove its data."""
        self.crash()
        shutil.rmtree(self.folder)


class PostgreSQL(Server):
    """A PostgreSQL server."""

    kind = "postgresql"
    account = "postgres"
    programs = ("initdb", "postgres", "pg_isready")
    # What PostgreSQL calls immediate: nothing is written any more, recovery comes at the start.
    # Killed by SIGKILL, it would leave children behind that keep the next one from starting.
    crash_signal = signal.SIGQUIT

    def preparation(self) -> list[str]:
        """Give the command that fills the data folder."""
        options = ["-U", "heartbeat", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        return [self.found["initdb"], "-D", str(self.data), *options]

    def command(self) -> list[str]:
        """Give the command that serves."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": str(CONNECTIONS),
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return [self.found["postgres"], "-D", str(self.data), "-p", str(self.port), *options]

    def is_ready(self) -> bool:
        """Tell whether the server takes connections: it listens before it has recovered."""
        question = [self.found["pg_isready"], "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(question, check=False).returncode == 0

    def url(self, name: str) -> str:
        """Give the URL of a database."""
        return f"postgresql+psycopg://heartbeat@127.0.0.1:{self.port}/{name}"


class MariaDB(Server):
    """A MariaDB server."""

    kind = "mysql"
    account = "mysql"
    programs = ("mariadb-install-db", "mariadbd")
    crash_signal = signal.SIGKILL

    def preparation(self) -> list[str]:
        """Give the command that fills the data folder."""
        options = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        return [
            self.found["mariadb-install-db"],
            "--no-defaults",
            f"--datadir={self.data}",
            *options,
        ]

    def command(self) -> list[str]:
        """Give the command that serves."""
        return [
            self.found["mariadbd"],
            "--no-defaults",
            f"--datadir={self.data}",
            f"--socket={self.folder}/socket",
            f"--pid-file={self.folder}/pid",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            f"--max-connections={CONNECTIONS}",
        ]

    def url(self, name: str) -> str:
        """Give the URL of a database."""
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{name}"


def find(program: str) -> str:
    """Give the place of a program of a server's."""
    found = shutil.which(program, path=PLACES)
    if found is None:
        raise NotInstalledError(f"{program} is not installed")
    return found


def make_database(kind: str) -> Database:
    """Make a place for databases of that kind, its server running."""
    kinds: dict[str, type[SQLite | PostgreSQL | MariaDB]] = {
        "sqlite": SQLite,
        "postgresql": PostgreSQL,
        "mysql": MariaDB,
    }
    database = kinds[kind]()
    database.start()
    return database
