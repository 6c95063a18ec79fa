"""All that both README files tell a newcomer to type works as it is printed, in that order."""

from __future__ import annotations

import json
import os
import shlex
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from conftest import TEMPLATE, Finished, cookiecutter_command, make_config
from test_project import Project, user_environment

from first_hour.reading import Step, steps
from first_hour.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.install, pytest.mark.slow]

# What is proved elsewhere, since it would run this very test, or for an hour.
ELSEWHERE = ("make test     # what a change", "make bench")
SERVES = ("make serve", ".venv/bin/pserve")
SERVERS = {"postgresql": "TEST_POSTGRESQL_URL", "mysql": "TEST_MYSQL_URL"}
# Where a module of a section belongs.
MODULES = {"Add a flow": "flows/greet.py", "Your tables": "models/order.py"}


class Newcomer:
    """Somebody who follows the README files line by line, on a free port."""

    def __init__(self, folder: Path, database: str, url: str | None) -> None:
        """Open a terminal."""
        self.folder, self.database = folder, database
        self.project = folder / "data_flows"
        with closing(socket.create_server(("127.0.0.1", 0))) as probe:
            self.port = probe.getsockname()[1]
        self.environment = environment = user_environment(folder)
        # The project's own tests are run by others; here it matters that the command works.
        environment |= {"PYTEST_ADDOPTS": "--no-cov -k test_home", "CURL_HOME": str(folder)}
        (folder / ".curlrc").write_text("fail\nsilent\nshow-error\n")
        if url:
            environment["DATABASE_URL"] = url
        self.terminal = Terminal(folder, environment)

    def do(self, step: Step) -> None:
        """Do what a step says."""
        text = step.text.replace(":6543", f":{self.port}")
        if step.kind == "module":
            (self.project / "src" / "data_flows" / MODULES[step.section]).write_text(text)
            self.serve(".venv/bin/pserve development.ini")  # the README says to restart
        elif step.kind == "crontab":
            command = text.split(maxsplit=5)[5]
            self.terminal.type(command.replace("/srv/data_flows", str(self.project)))
        elif text.startswith("uvx cookiecutter"):
            self.render()
        elif text.startswith(SERVES):
            self.serve(text)
        elif not text.startswith(ELSEWHERE):
            if "FINGERPRINT" in text:
                text = text.replace("FINGERPRINT", self.oldest_token())
            self.terminal.type(text)

    def serve(self, command: str) -> None:
        """Serve, in place of the last server."""
        self.terminal.start(command, self.port, self.folder / "server.log")

    def oldest_token(self) -> str:
        """Return the fingerprint of the scheduler's oldest token."""
        rows = json.loads(self.terminal.type(".venv/bin/heartbeat token list --json"))
        return str(next(row["fingerprint"] for row in rows if row["role"] == "beat"))

    def render(self) -> None:
        """Render the template with its defaults, on a port that is free."""
        command = cookiecutter_command(TEMPLATE, make_config(self.folder))
        self.terminal.type(shlex.join([*command, f"database={self.database}"]))
        for ini in self.project.glob("*.ini"):
            ini.write_text(ini.read_text().replace(":6543", f":{self.port}"))


@pytest.fixture(params=["sqlite", *SERVERS])
def newcomer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Newcomer]:
    """A newcomer who has chosen a database."""
    if request.param not in SERVERS:
        newcomer = Newcomer(tmp_path, request.param, None)
        yield newcomer
        newcomer.terminal.close()
        return
    server = os.environ.get(SERVERS[request.param])
    if not server:
        pytest.skip(f"{SERVERS[request.param]} names no server")
    name = f"first_hour_{os.getpid()}"
    newcomer = Newcomer(tmp_path, request.param, f"{server.rpartition('/')[0]}/{name}")
    yield newcomer
    newcomer.terminal.close()
    project = Project(newcomer.project, newcomer.environment, Finished(0, "", ""))
    project.sql(server, f"DROP DATABASE IF EXISTS {name}")


def test_the_template_makes_its_demonstration(tmp_path: Path) -> None:
    terminal = Terminal(TEMPLATE, user_environment(tmp_path))
    assert "airports in the database" in terminal.type("make demo")
    terminal.close()


def test_every_line_of_the_readme_files_works_in_order(newcomer: Newcomer) -> None:
    for step in steps((TEMPLATE / "README.md").read_text()):
        if step.section == "Use it" and step.kind == "command":
            newcomer.do(step)
    of_project = list(steps((newcomer.project / "README.md").read_text()))

    for step in of_project:
        newcomer.do(step)

    assert len(of_project) > 40
