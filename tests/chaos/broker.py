"""Celery's broker, reached through a proxy: cut off, silent, slow, forgetful and repeating."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from contextlib import closing
from pathlib import Path
from socket import create_server
from typing import TYPE_CHECKING

from .databases import NotInstalledError, Server
from .network import Network, Troubles
from .processes import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable
    from random import Random

    from .audit import Facts
    from .processes import Site

# The first two are at the URLs of these variables. The others are servers of chaos's own, which
# it crashes: the last one forgets all its messages then.
VARIABLES = {"amqp": "TEST_AMQP_URL", "redis": "TEST_REDIS_URL"}
KINDS = (*VARIABLES, "own-amqp", "own-redis", "forgetful-redis")
# What is done to the connections, one after the other. The times are in seconds.
CUT, AWAY, SILENCE, DELAY, CRASH = "cuts", "outages", "silences", "delays", "crashes"
LASTS = {CUT: (0.0, 0.0), AWAY: (0.5, 5.0), SILENCE: (30.0, 30.0), DELAY: (2.0, 10.0)}
ANSWERS_LATE = (0.1, 2.0)
# What is done to the messages, by `inside/mail.py`.
REPEAT, LOSE, HOLD = "repeat", "lose", "hold"
MAIL = {REPEAT: "messages repeated", LOSE: "messages lost", HOLD: "messages held"}
HELD = (1.0, 15.0)
# How often each is done, before all is done again in another order.
OFTEN = {CUT: 3, AWAY: 3, SILENCE: 1, DELAY: 2, CRASH: 1, REPEAT: 3, LOSE: 3, HOLD: 3}


class Redis(Server):
    """A Redis server, which keeps its messages or loses them with a crash."""

    kind = "redis"
    account = "redis"
    programs = ("redis-server",)
    crash_signal = signal.SIGKILL
    keeps = "yes"

    def preparation(self) -> list[str]:
        """Give the command that makes the data folder."""
        return ["mkdir", str(self.data)]

    def command(self) -> list[str]:
        """Give the command that serves."""
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.data),
            "save": "",
            "appendonly": self.keeps,
            "appendfsync": "always",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [self.found["redis-server"], *words]

    @property
    def url(self) -> str:
        """The URL of its first database."""
        return f"redis://127.0.0.1:{self.port}/0"


class ForgetfulRedis(Redis):
    """A Redis server that keeps nothing on disk."""

    keeps = "no"


class RabbitMQ(Server):
    """A RabbitMQ server, which keeps its messages."""

    kind = "amqp"
    account = "rabbitmq"
    programs = ("rabbitmq-server",)
    crash_signal = signal.SIGKILL

    def environment(self) -> dict[str, str]:
        """Give the variables that keep it away from other servers."""
        with closing(create_server(("127.0.0.1", 0))) as probe:
            other_port = str(probe.getsockname()[1])
        return {
            "HOME": str(self.folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # So that it is one process, which can be killed; it gets no input.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_CONFIG_FILE": f"{self.folder}/none.conf",
            "RABBITMQ_CONF_ENV_FILE": f"{self.folder}/none",
            "RABBITMQ_DIST_PORT": other_port,
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{self.folder}/plugins",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_MNESIA_BASE": str(self.data),
            "RABBITMQ_NODENAME": f"chaos-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def preparation(self) -> list[str]:
        """Give the command that makes the data folder."""
        return ["mkdir", str(self.data)]

    def command(self) -> list[str]:
        """Give the command that serves."""
        # Debian's program on the PATH starts this one as another process, which cannot be killed.
        debian = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
        program = str(debian) if debian.exists() else self.found["rabbitmq-server"]
        return [program, "-noinput"]

    @property
    def url(self) -> str:
        """The URL of its default host."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"


OWN: dict[str, type[Redis | RabbitMQ]] = {
    "own-amqp": RabbitMQ,
    "own-redis": Redis,
    "forgetful-redis": ForgetfulRedis,
}


class Broker:
    """A broker with a queue of its own, and a proxy in front that all others use."""

    def __init__(self, kind: str) -> None:
        """Find or start it. Raises NotInstalledError if there is none."""
        self.kind, self.queue = kind, f"chaos-{uuid.uuid4().hex[:8]}"
        self.server = OWN[kind]() if kind in OWN else None
        if self.server is not None:
            self.server.start()
            self.direct_url = self.server.url
        elif url := os.environ.get(VARIABLES[kind]):
            self.direct_url = url
        else:
            raise NotInstalledError(f"{VARIABLES[kind]} names no server")
        network = Network(self.direct_url)
        self.url, self.proxy = network.url, network.proxy

    @property
    def settings(self) -> dict[str, str]:
        """The settings of an application that hands its runs to it, with short times."""
        return {
            "heartbeat.executor": "celery",
            "heartbeat.celery_broker_url": self.url.replace("%", "%%"),
            "heartbeat.redeliver_after": "2s",
            "heartbeat.workers": "3",
            "chaos.queue": self.queue,
        }

    def mail(self, site: Site, what: str, seconds: float = 0.0) -> subprocess.Popen[str]:
        """Begin to do something to its messages."""
        program = [str(site.project.folder / ".venv" / "bin" / "python"), f"{site.folder}/mail.py"]
        return subprocess.Popen(
            [*program, what, site.url, self.direct_url, self.queue, str(seconds)],
            env=site.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def close(self, site: Site | None = None) -> None:
        """End the server that was started; on another one, remove the queue, as a site can do."""
        self.proxy.close()
        if self.server is not None:
            self.server.close()
        elif site is not None:
            self.mail(site, "remove").communicate(timeout=PATIENCE_SECONDS)


class BrokerTroubles(Troubles):
    """All faults of a broker, each as often as it is listed, in a random order, repeatedly."""

    def __init__(
        self,
        site: Site,
        broker: Broker,
        facts: Facts,
        deeds: Counter[str],
        log: Callable[[str], None],
    ) -> None:
        """Take the broker, and where to count what was done."""
        super().__init__(facts, deeds, log)
        self.site, self.broker = site, broker
        self.waiting: list[str] = []
        self.connections: str = ""
        self.until = 0.0
        self.mail: dict[str, subprocess.Popen[str]] = {}

    def disturb(self, random: Random, now: float) -> None:
        """Do the next thing that can be done now."""
        if not self.waiting:
            kinds = [*LASTS, *([CRASH] if self.broker.server else []), *MAIL]
            self.waiting = [kind for kind in kinds for _ in range(OFTEN[kind])]
            random.shuffle(self.waiting)
        busy = {*self.mail} | ({*LASTS, CRASH} if self.connections else set())
        name = next((each for each in self.waiting if each not in busy), None)
        if name is None:
            return
        self.waiting.remove(name)
        self.log(name)
        if name in MAIL:
            seconds = random.uniform(*HELD) if name == HOLD else 0.0
            self.mail[name] = self.broker.mail(self.site, name, seconds)
            return
        self.deeds[name] += 1
        if name == CRASH:
            self.crash(random)
            return
        self.connections, self.until = name, now + random.uniform(*LASTS[name])
        if name == SILENCE:
            self.broker.proxy.silent = True
        elif name == DELAY:
            self.broker.proxy.delay = random.uniform(*ANSWERS_LATE)
        else:
            self.broker.proxy.refuse()

    def crash(self, random: Random) -> None:
        """Crash the server, and start it again a little later."""
        assert self.broker.server is not None
        self.broker.server.crash()
        time.sleep(random.uniform(0.2, 1.5))
        self.broker.server.start()

    def tend(self, now: float) -> None:
        """End what has lasted long enough, and count the messages that something was done to."""
        if self.connections and now >= self.until:
            self.log(f"end of {self.connections}")
            self.broker.proxy.heal()
            self.connections = ""
        for name, process in list(self.mail.items()):
            if process.poll() is not None:
                self.count_mail(name)

    def count_mail(self, name: str) -> None:
        """Count the messages that something was done to, as soon as it was done."""
        process = self.mail.pop(name)
        said, error = process.communicate(timeout=PATIENCE_SECONDS)
        if process.returncode:  # its server was away
            self.log(f"{name}: {error}")
            self.deeds["mail failed"] += 1
        else:
            self.log(f"{name}: {said}")
            self.deeds[MAIL[name]] += int(said)

    def end_all(self) -> None:
        """End all that is done."""
        self.tend(float("inf"))
        for name in list(self.mail):
            self.count_mail(name)
