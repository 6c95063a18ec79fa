"""A database that cannot be used: each command prints the cause and its solution."""

import os
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, make_url

from ..conftest import DATABASE, MakeApp
from .conftest import Command

COMMANDS = ["flows", "beat", "migrate", "check"]
PASSWORD = "catfish-0123456789"  # noqa: S105 - an example
Post = Callable[..., Any]


def line_of(command: Command, name: str) -> str:
    """Call a command that fails; return the line of the error."""
    result = command(name)
    assert result.exit_code == 1, result.output
    # The report of `check` has what is in order as well.
    [line] = [line for line in result.output.splitlines() if not line.startswith("ok ")]
    assert "cannot be reached (" in line
    assert PASSWORD not in line
    return line


if DATABASE == "sqlite":

    @pytest.mark.parametrize("name", ["flows", "beat", "check"])
    def test_a_file_that_is_not_a_database_is_named(
        command: Command, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "notes.txt"
        file.write_text("no database " * 100)
        monkeypatch.setenv("DATABASE_URL", f"sqlite:///{file}")

        line = line_of(command, name)

        assert f"{file} cannot be reached (file is not a database): check the file" in line
        assert "start its server" not in line


if DATABASE != "sqlite":
    SERVER = make_url(os.environ["TEST_DATABASE_URL"])

    class Refusing(socketserver.BaseRequestHandler):
        """A PostgreSQL server that asks for a password and refuses it.

        One that trusts all local users, as for tests, refuses none.
        """

        def handle(self) -> None:
            """Answer one client."""
            sslmode, gssapi, plain_password = 80877103, 80877104, 3
            length, code = struct.unpack("!ii", self.request.recv(8, 256))
            while code in {sslmode, gssapi}:
                self.request.sendall(b"N")
                length, code = struct.unpack("!ii", self.request.recv(8))
            self.request.recv(length - 8)
            self.request.sendall(b"R" + struct.pack("!ii", 8, plain_password))
            self.request.recv(1_000)
            text = 'password authentication failed for user "joe"'
            fields = f"SFATAL\0VFATAL\0C28P01\0M{text}\0\0".encode()
            self.request.sendall(b"E" + struct.pack("!i", len(fields) + 4) + fields)

    @pytest.fixture
    def _wrong_password(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Give the commands a wrong password."""
        if DATABASE == "mysql":
            set_url(monkeypatch, SERVER.set(password=PASSWORD))
            yield
            return
        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refusing) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            set_url(monkeypatch, SERVER.set(port=server.server_address[1], password=PASSWORD))
            yield
            server.shutdown()

    def set_url(monkeypatch: pytest.MonkeyPatch, url: URL) -> None:
        """Let the commands find a database."""
        monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))

    @pytest.mark.usefixtures("_wrong_password")
    @pytest.mark.parametrize("name", COMMANDS)
    def test_a_wrong_password_is_reported_in_the_words_of_the_server(
        command: Command, name: str
    ) -> None:
        line = line_of(command, name)

        said = {
            "mysql": "(using password: YES)): ",
            "postgresql": 'password authentication failed for user "joe"): ',
        }[DATABASE]
        fix = "correct the user and the password in sqlalchemy.url or DATABASE_URL"
        assert line.endswith(said + fix)

    @pytest.mark.usefixtures("_wrong_password")
    def test_a_beat_with_a_wrong_password_is_answered_with_the_fix(
        make_app: MakeApp, post: Post
    ) -> None:
        url = os.environ["DATABASE_URL"]

        detail = post(make_app(**{"sqlalchemy.url": url}), status=503).json["detail"]

        assert "correct the user and the password in sqlalchemy.url or DATABASE_URL" in detail
        assert PASSWORD not in detail

    @pytest.mark.parametrize("name", ["flows", "beat", "check"])
    def test_a_database_that_is_not_there_is_made_by_migrate(
        command: Command, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_url(monkeypatch, SERVER.set(database="heartbeat_test_not_there"))

        line = line_of(command, name)

        assert "run `heartbeat migrate`, which creates it, or correct its name in sqlalch" in line

    @pytest.mark.parametrize("name", COMMANDS)
    def test_a_server_that_is_not_there_is_to_be_started(
        command: Command, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_url(monkeypatch, SERVER.set(port=1))

        assert "): start its server, or correct sqlalchemy.url or DATABASE" in line_of(
            command, name
        )
