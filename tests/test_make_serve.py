"""`make serve` of a rendered project: it serves and beats, and leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from test_project import PATIENCE_SECONDS, Project, Server, any_port, make_project, user_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.install, pytest.mark.xdist_group("make serve")]

# A flow that runs until there is a file.
SLOW = '''"""Wait for a file."""

import time
from pathlib import Path

from ..heartbeat import Run, flow


@flow(every="1m")
def slow(_run: Run) -> str:
    """Wait until `var/go-on` exists."""
    Path("var/begun").touch()
    while not Path("var/go-on").exists():
        time.sleep(0.05)
    return "old code"
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that listens on a free port, with a flow that waits."""
    folder = tmp_path_factory.mktemp("make-serve")
    project = make_project(folder, user_environment(folder))
    ini = project.folder / "development.ini"
    ini.write_text(any_port(ini.read_text()))
    (project.package / "flows" / "slow.py").write_text(SLOW)
    return project


@contextmanager
def serving(project: Project) -> Iterator[Server]:
    """Run `make serve` with the flow due, until it serves and the flow has begun."""
    (project.package / "flows" / "slow.py").write_text(SLOW)
    for name in ("begun", "go-on"):
        (project.folder / "var" / name).unlink(missing_ok=True)
    project.heartbeat("remove", "slow")
    server = Server(["make", "serve"], project.folder, project.environment)
    try:
        wait_until((project.folder / "var" / "begun").exists, server)
        yield server
    finally:
        server.stop()


def wait_until(condition: Callable[[], bool], server: Server, pause: float = 0.1) -> None:
    """Wait until something has happened; look after each pause."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, server.said
        time.sleep(pause)


def has_left_nothing(server: Server) -> bool:
    """Return whether no process of the group of `make` is left."""
    server.process.poll()  # the group has it until its status is read
    try:
        os.killpg(server.process.pid, 0)
    except ProcessLookupError:
        return True
    return False


def process_of(server: Server, words: str) -> int:
    """Return the first process of the group of `make` whose command has these words."""
    listed = ["ps", "-A", "-ww", "-o", "pid=,pgid=,args="]
    lines = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()
    found = [line.split(maxsplit=2) for line in lines if words in line]
    return min(int(pid) for pid, group, _args in found if int(group) == server.process.pid)


def last_run(project: Project) -> tuple[str, str | None, str | None]:
    """Return the status, the error and the result of the last run of the flow."""
    run = next(run for run in project.runs() if run["flow"] == "slow")
    return run["status"], run["error_type"], run["result"]


def test_it_serves_and_beats_and_ctrl_c_gives_runs_their_grace(project: Project) -> None:
    with serving(project) as server:
        reply = server.call("GET", "/")
        os.killpg(server.process.pid, signal.SIGINT)  # as a terminal does
        wait_until(lambda: "stopping: 1 running flows" in server.said, server)
        (project.folder / "var" / "go-on").touch()
        wait_until(lambda: has_left_nothing(server), server)

    assert reply.status == 200
    assert last_run(project) == ("success", None, "old code")
    beats = json.loads(project.done(".venv/bin/heartbeat", "beats", "--json"))["beats"]
    assert "command line scheduler on " in beats[0]["source"]


def test_sigterm_of_make_ends_all(project: Project) -> None:
    with serving(project) as server:
        server.process.terminate()
        wait_until(lambda: "stopping: 1 running flows" in server.said, server)
        (project.folder / "var" / "go-on").touch()
        wait_until(lambda: has_left_nothing(server), server)

    assert last_run(project)[0] == "success"


@pytest.mark.parametrize("words", ["pserve --reload", "hupper -q", "make serve"])
def test_when_one_is_killed_the_others_end(project: Project, words: str) -> None:
    with serving(project) as server:
        (project.folder / "var" / "go-on").touch()
        os.kill(process_of(server, words), signal.SIGKILL)
        wait_until(lambda: has_left_nothing(server), server)


def test_changed_code_runs_on_the_next_beat(project: Project) -> None:
    changed = SLOW.replace("old code", "new code").replace('every="1m"', 'every="1s"')

    def ran_after_the_change() -> bool:
        # Written again where the reloader had not seen the file before the first change.
        (project.package / "flows" / "slow.py").write_text(changed)
        return last_run(project) == ("success", None, "new code")

    with serving(project) as server:
        (project.folder / "var" / "go-on").touch()
        wait_until(ran_after_the_change, server, pause=10)
