"""The subscriber of docs/alarms.md, exactly as it stands there, sends a mail."""

import re
import socketserver
import sys
import textwrap
import threading
import types
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from ..conftest import FakeClock, MakeApp
from .alarmed import Listener, Switch

DOCS = Path(__file__).parents[3] / "docs" / "alarms.md"
LINES = 15


class MailServer(socketserver.ThreadingTCPServer):
    """A mail server that keeps the mails."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Session)
        self.mails: list[tuple[str, str]] = []


class Session(socketserver.StreamRequestHandler):
    """The replies of SMTP."""

    server: MailServer

    def handle(self) -> None:
        """Accept one mail."""
        self.wfile.write(b"220 ready\r\n")
        for line in self.rfile:
            if line.strip().upper() == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            if line.strip().upper() == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = iter(self.rfile.readline, b".\r\n")
                mail = message_from_bytes(b"".join(lines), policy=default)
                self.server.mails.append((str(mail["Subject"]), mail.get_content().strip()))
            self.wfile.write(b"250 fine\r\n")


@pytest.fixture
def mail_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    """Make the mail server of the application."""
    with MailServer() as server:
        monkeypatch.setenv("SMTP_SERVER", f"127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def code_of_the_docs() -> str:
    """Return the only Python module of the page."""
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", DOCS.read_text("utf-8"), re.MULTILINE)
    [code] = [textwrap.dedent(block) for block in blocks if "@subscriber" in block]
    return code.strip() + "\n"


def test_the_subscriber_of_the_docs_sends_a_mail_for_each_alarm(
    make_app: MakeApp,
    post: Callable[..., Any],
    clock: FakeClock,
    mail_server: MailServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = types.ModuleType("data_flows.flows.alarm_mail")
    module.__package__ = "data_flows.flows"
    sys.modules[module.__name__] = module  # for the decorator, and the scan
    exec(compile(code_of_the_docs(), str(DOCS), "exec"), vars(module))  # noqa: S102 - the docs
    listener, switch = Listener(post, clock), Switch()
    listener.app = make_app(switch.orders, configure=lambda config: config.scan(module))
    del sys.modules[module.__name__]

    listener.beat(3)
    switch.is_broken = False
    listener.beat()

    (failing, text), (recovered, _) = mail_server.mails
    assert (failing, recovered) == ("orders: failing", "orders: recovered")
    assert text.startswith("orders is failing: 3 failures in a row")
    assert text.endswith("LookupError: no such bird")
    serious = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert all(line.startswith("orders failed") for line in serious)


def test_the_subscriber_of_the_docs_is_short() -> None:
    code = [line for line in code_of_the_docs().splitlines() if line.strip()]

    assert len(code) <= LINES
