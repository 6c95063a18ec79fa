"""What the functional tests share: the command, and waiting for what goes on in the background."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pyramid.config import Configurator
from pyramid.router import Router
from sqlalchemy import select
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.cli import main
from data_flows.heartbeat.db import begin_writing
from data_flows.heartbeat.models import DataFlow

from ..conftest import TOKEN, end
from ..delivery import EXECUTOR, THREAD, delivering
from .operated import Call, as_operator

SECONDS = 30
OPERATOR = "an-operator-token-for-tests-alone"

if os.environ.get("TEST_DATABASE_URL"):
    # What comes over the wire is refused before any database is asked: they use a SQLite file.
    collect_ignore = ["test_hostile_requests.py", "test_removed_file.py", "test_history_plans.py"]
    collect_ignore += ["test_log_hours.py"]

Command = Callable[..., Result]


def good(run: Run) -> dict[str, int]:
    """Count three rows."""
    run.log.info("counting")
    return {"rows": 3}


def bad(_run: Run) -> None:
    """Fail."""
    message = "no such bird"
    raise LookupError(message)


def application(_global_config: dict[str, str], **settings: Any) -> Router:
    """Make the application of the .ini files below: the engine, with the flows that they name."""
    with Configurator(settings=settings) as config:
        config.include("data_flows.heartbeat")
        for flow in (good, bad):
            if flow.__name__ in settings["flows"].split():
                config.add_flow(flow, every="5m")
        if "wrong" in settings["flows"].split():
            config.add_flow(good, name="wrong", every="5 minutes")
        app: Router = config.make_wsgi_app()
        return app


@pytest.fixture(autouse=True)
def _executor() -> Iterator[None]:
    """Make the applications of a test with the executor that TEST_EXECUTOR names."""
    with delivering() if EXECUTOR == "celery" else nullcontext():
        yield


@pytest.fixture
def ini_file(tmp_path: Path, database_url: str) -> Callable[..., Path]:
    """Write an .ini file, with flows as in "good bad" and settings, and return its path."""

    def write(flows: str, **settings: str) -> Path:
        given = {"sqlalchemy.url": database_url, "heartbeat.token": TOKEN, **settings}
        lines = [f"{name} = {value.replace('%', '%%')}" for name, value in given.items()]
        file = tmp_path / "command.ini"
        head = ["[app:main]", f"use = call:{__name__}:application", f"flows = {flows}"]
        file.write_text("\n".join([*head, *lines, ""]))
        return file

    return write


@pytest.fixture
def command(ini_file: Callable[..., Path]) -> Command:
    """Call `heartbeat` with arguments; the application has the flows that `flows` names."""

    def call(*arguments: str, flows: str = "good bad", **settings: str) -> Result:
        file = ini_file(flows, **settings)
        return CliRunner().invoke(main, [*arguments, "-c", str(file)])

    return call


@pytest.fixture
def call(app: TestApp) -> Call:
    """Call a resource of the test's application as the operator; return the response."""
    return as_operator(app)


@pytest.fixture
def fresh_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the commands find a database that was never migrated."""
    file = tmp_path / "fresh.sqlite"
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{file}")
    return file


@pytest.fixture
def somebody_writes(command: Command, dbsession: Session) -> None:
    """Hold the row of the flow "good", and on SQLite the write lock, for all of the test."""
    command("beat", flows="good")
    if dbsession.get_bind().dialect.name == "sqlite":
        begin_writing(dbsession)
    else:
        dbsession.scalars(select(DataFlow).with_for_update()).all()


def settle() -> None:
    """Wait until no beat and no run is at work in this process any more."""
    for thread in threading.enumerate():
        if thread.name in {"heartbeat-beat", "heartbeat-worker", "heartbeat-child", THREAD}:
            thread.join(SECONDS)
            assert not thread.is_alive(), f"{thread.name} does not end"


class Gate:
    """Blocks flows until a test opens it, and signals when one has arrived."""

    def __init__(self) -> None:
        self._arrived = threading.Event()
        self._opened = threading.Event()

    def hold(self) -> None:
        """Wait for `open`; called by a flow."""
        self._arrived.set()
        assert self._opened.wait(SECONDS), "the test never opened the gate"

    def wait_for_arrival(self) -> None:
        """Wait until a flow has arrived; called by the test."""
        assert self._arrived.wait(SECONDS), "no flow came to the gate"

    def open(self) -> None:
        """Let all pass, from now on."""
        self._opened.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Make a gate for the flows of this test; open it at the end, whatever happened."""
    gate = Gate()
    yield gate
    gate.open()
    settle()


@pytest.fixture
def settings(database_url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Make the settings of the host."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    return {
        "sqlalchemy.url": database_url,
        "heartbeat.token": TOKEN,
        "heartbeat.operator_token": OPERATOR,
    }


@pytest.fixture
def config(settings: dict[str, str]) -> Iterator[Configurator]:
    """Make a configurator; what is included into it is disposed of after the test."""
    config = Configurator(settings=settings)
    yield config
    if "heartbeat" in config.registry:
        end(config.registry["heartbeat"])
