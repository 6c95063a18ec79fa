"""A project whose flows run on Celery workers, with the brokers that the environment names."""

from __future__ import annotations

import signal

import pytest
from conftest import Child
from test_project import DRIVERS, Project, make_project, server_url, user_environment

pytestmark = [pytest.mark.install, pytest.mark.servers, pytest.mark.xdist_group("celery")]

BROKERS = ("amqp", "redis")
# The functional tests of what a beat, a run and an operator promise, whatever the executor is.
WITH_CELERY = (
    *("backfill", "broken_runs", "conditions", "early_beats", "operations", "operations_run_now"),
    *("promises", "retries", "runs", "schedules", "transactions", "windows"),
)
REMOVE_QUEUE = """
import sys, kombu
with kombu.Connection(sys.argv[1]) as connection:
    connection.channel().queue_delete("data_flows")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Make a project with Celery."""
    folder = tmp_path_factory.mktemp("celery")
    return make_project(folder, user_environment(folder), executor="celery")


def test_its_own_tests_need_no_broker(project: Project) -> None:
    project.run_tests()


@pytest.mark.parametrize("broker", BROKERS)
def test_its_worker_runs_what_a_beat_hands_over(project: Project, broker: str) -> None:
    url = server_url(broker)
    environment = {"HEARTBEAT_CELERY_BROKER_URL": url}
    flow = f"import_by_{broker}"
    options = ("--handler", "import_csv", "--every", "1d")
    project.done(".venv/bin/heartbeat", "add", flow, *options, **environment)
    worker = Child(["make", "worker"], project.folder, project.environment | environment)
    try:
        output = project.done(".venv/bin/heartbeat", "beat", HEARTBEAT_WAIT="60s", **environment)
    finally:
        worker.interrupt(signal.SIGTERM)
        said = worker.finish()
        project.done(".venv/bin/python", "-c", REMOVE_QUEUE, url)

    [run] = [run for run in project.runs(**environment) if run["flow"] == flow]
    assert run["status"] == "success", output + said.everything
    assert run["sent_at"] is not None
    assert f"{flow} succeeded" in said.everything
    assert "] succeeded in" not in said.everything  # Celery's own line for it


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mysql"])
def test_the_engines_tests_of_it_pass(project: Project, kind: str) -> None:
    environment = {f"TEST_{broker.upper()}_URL": server_url(broker) for broker in BROKERS}
    if kind != "sqlite":
        environment["TEST_DATABASE_URL"] = server_url(kind)
        project.install(DRIVERS[kind])

    project.run_engine_tests("tests/engine/concurrency/test_celery.py", **environment)


def test_the_engines_functional_tests_pass_with_it(project: Project) -> None:
    files = (f"tests/engine/functional/test_{name}.py" for name in WITH_CELERY)

    project.run_engine_tests(*files, TEST_EXECUTOR="celery")
