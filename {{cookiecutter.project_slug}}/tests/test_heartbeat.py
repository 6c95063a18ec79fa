"""The heartbeat, as a scheduler calls it: a model for tests of your own flows."""

from collections.abc import Iterator
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.paster import get_appsettings
from webtest import TestApp

from {{cookiecutter.project_slug}}.heartbeat import (
    Run,
)

from .conftest import INI_FILE, TOKEN, Command

AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


def greet(run: Run) -> dict[str, int]:
    """Succeed."""
    run.log.info("hello")
    return {"greeted": 1}


def fail(_run: Run) -> None:
    """Fail."""
    raise LookupError("nobody to greet")


@pytest.fixture
def app(database_url: str) -> Iterator[TestApp]:
    """Make an application with these two flows alone."""
    settings = {**get_appsettings(INI_FILE), "sqlalchemy.url": database_url}
    with Configurator(settings=settings) as config:
        config.include("{{cookiecutter.project_slug}}.heartbeat")
        config.add_flow(greet, every="5m")
        config.add_flow(fail, every="1h")
        wsgi_app = config.make_wsgi_app()
    yield TestApp(wsgi_app)
    wsgi_app.registry["heartbeat"].dispose()


def test_a_beat_runs_the_due_flows_and_records_their_runs(app: TestApp, command: Command) -> None:
    reply: Any = app.post("/heartbeat", headers=AUTHORIZED).json

    assert (reply["flows_due"], reply["flows_succeeded"], reply["flows_failed"]) == (2, 1, 1)
    [run] = command("runs", "--flow", "greet")
    assert (run["status"], run["trigger"], run["result"]) == ("success", "schedule", {"greeted": 1})
    assert "hello" in run["log"]


def test_the_next_beat_finds_nothing_due(app: TestApp) -> None:
    app.post("/heartbeat", headers=AUTHORIZED)

    assert app.post("/heartbeat", headers=AUTHORIZED).json["flows_due"] == 0


@pytest.mark.parametrize("headers", [{}, {"Authorization": f"Bearer not-{TOKEN}"}])
def test_without_the_token_nothing_happens(
    app: TestApp, command: Command, headers: dict[str, str]
) -> None:
    app.post("/heartbeat", headers=headers, status=401)

    assert command("runs") == []


def test_a_failing_flow_is_recorded_with_its_error(app: TestApp, command: Command) -> None:
    app.post("/heartbeat", headers=AUTHORIZED)

    [run] = command("runs", "--flow", "fail")
    assert (run["status"], run["error"]) == ("failed", "LookupError: nobody to greet")
    assert 'raise LookupError("nobody to greet")' in run["error_backtrace"]
