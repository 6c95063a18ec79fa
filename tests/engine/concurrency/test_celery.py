"""Beats that hand over to Celery: real workers, real brokers."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from data_flows.heartbeat.models import DataFlow, DataFlowRun

from . import served
from .conftest import (
    BROKERS,
    PROJECT,
    SECONDS,
    Serve,
    Server,
    environment,
    wait_until,
    write_ini,
)
from .proxy import Proxy
from .served import MANY, WRITTEN
from .workers import Broker, Worker

Work = Callable[..., Worker]
Begin = Callable[..., tuple[Server, Worker]]

COMMAND = str(Path(sys.executable).with_name("heartbeat"))
# The nearest times that the settings allow, so that tests are short.
SOON = {"heartbeat.lease": "3s", "heartbeat.redeliver_after": "1s"}
NO_RUN = 2**31 - 1


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Return a broker with a queue for this test alone."""
    broker = Broker.at(BROKERS[request.param])
    yield broker
    broker.remove()


@pytest.fixture
def work(tmp_path: Path, broker: Broker) -> Iterator[Work]:
    """Start a worker with the settings of the first server, and the given options."""
    workers: list[Worker] = []

    def start(*options: str) -> Worker:
        log_file = tmp_path / f"worker {len(workers)}.log"
        worker = Worker.start(tmp_path / "server 0.ini", log_file, broker.queue, *options)
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.kill()


@pytest.fixture
def begin(broker: Broker, serve: Serve, work: Work, folder: Path) -> Begin:
    """Start a server and a worker of one process, and wait until a run has begun there."""

    def start(flows: str, pool: str = "prefork", **settings: str) -> tuple[Server, Worker]:
        [server] = serve(flows, {**broker.settings, **settings})
        worker = work("-c", "1", "-P", pool)
        server.beat()
        wait_until((folder / "inside").exists, worker.log())
        return server, worker

    return start


def runs(dbsession: Session) -> list[DataFlowRun]:
    """Read all runs in a new transaction, oldest first."""
    dbsession.rollback()
    found = list(dbsession.scalars(select(DataFlowRun).order_by(DataFlowRun.id)))
    dbsession.rollback()
    return found


def statuses(dbsession: Session) -> list[str]:
    """Read the statuses of all runs."""
    return [run.status for run in runs(dbsession)]


def written(dbsession: Session) -> list[str]:
    """Read which flows have written."""
    dbsession.rollback()
    return list(dbsession.scalars(select(WRITTEN.c.flow_name)))


def lease(dbsession: Session) -> datetime:
    """Read when the lease of the only run ends."""
    [run] = runs(dbsession)
    assert run.lease_expires_at is not None
    return run.lease_expires_at


def triggered(reply: dict[str, Any]) -> tuple[int, int]:
    """Return the status of a reply, and how many runs its beat handed over."""
    return reply["status"], reply["flows_triggered"]


def beat_until(condition: Callable[[], bool], server: Server) -> None:
    """Send one beat after the other until `condition` holds."""

    def holds() -> bool:
        server.beat()
        return condition()

    wait_until(holds, server.log())


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_workers_execute_what_a_beat_hands_over(
    broker: Broker, serve: Serve, work: Work, dbsession: Session, pool: str
) -> None:
    [server] = serve("many", broker.settings)
    worker = work("-c", "2", "-P", pool)

    reply = server.beat()

    assert triggered(reply) == (202, MANY)
    wait_until(lambda: statuses(dbsession) == ["success"] * MANY, worker.log())
    assert len(written(dbsession)) == MANY
    assert f"{MANY} flows, 4 workers, executor celery" in worker.log()
    assert "Traceback" not in worker.log() + server.log()


def a_hundred(_folder: Path) -> list[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """Return more flows than RabbitMQ takes for a quorum queue before it has stored the first."""
    return [(f"flow {number}", served.write, {"every": "1d"}) for number in range(100)]


@pytest.fixture
def beat_by_command(
    tmp_path: Path, folder: Path, database_url: str, broker: Broker, written: None
) -> Callable[[], None]:
    """Beat once with a hundred flows, in a process that exits afterwards."""
    del written  # it must be there
    ini_file = tmp_path / "server 0.ini"
    flows = f"{__name__}:{a_hundred.__name__}"
    write_ini(ini_file, flows, folder, database_url, **broker.settings)
    command = [COMMAND, "beat", "-c", str(ini_file)]

    def beat() -> None:
        subprocess.run(command, env=environment(), cwd=PROJECT, check=True)  # noqa: S603 - ours

    return beat


def test_a_command_that_beats_and_exits_loses_no_message(
    beat_by_command: Callable[[], None], work: Work, dbsession: Session
) -> None:
    beat_by_command()

    worker = work()
    wait_until(lambda: statuses(dbsession) == ["success"] * 100, worker.log())
    assert all(run.redeliveries == 0 for run in runs(dbsession))


def test_a_beat_that_waits_reports_the_ends(broker: Broker, serve: Serve, work: Work) -> None:
    [server] = serve("many", broker.settings)
    work()

    reply = server.beat(Prefer="wait=60, return=representation")

    assert (reply["status"], reply["flows_succeeded"], reply["flows_in_progress"]) == (200, MANY, 0)
    assert {run["status"] for run in reply["runs"]} == {"success"}


def test_requested_runs_are_handed_over_at_once(
    broker: Broker, serve: Serve, work: Work, dbsession: Session
) -> None:
    [server] = serve("many", broker.settings)
    worker = work()

    server.operate("POST", "/flows/many%200/runs")

    wait_until(lambda: statuses(dbsession) == ["success"], worker.log())
    [run] = runs(dbsession)
    assert run.trigger == "manual"
    assert run.sent_at is not None


def test_messages_that_come_twice_or_for_nothing_do_nothing(
    broker: Broker, serve: Serve, work: Work, dbsession: Session
) -> None:
    [server] = serve("many", broker.settings)
    server.beat()
    ids = [run.id for run in runs(dbsession)]
    dbsession.execute(update(DataFlow).where(DataFlow.name == "many 0").values(enabled=False))
    dbsession.commit()

    broker.send(*ids, *ids, NO_RUN)
    worker = work("-c", "4")
    wait_until(lambda: statuses(dbsession).count("success") == MANY - 1, worker.log())
    broker.send(*ids)
    wait_until(lambda: worker.log().count("] succeeded in ") == 4 * MANY + 1, worker.log())

    assert sorted(written(dbsession)) == sorted(f"many {number}" for number in range(1, MANY))
    assert statuses(dbsession).count("pending") == 1


def test_lost_messages_are_sent_again(
    broker: Broker, serve: Serve, work: Work, dbsession: Session
) -> None:
    [patient, server] = serve("many", broker.settings, {**broker.settings, **SOON})
    server.beat()
    broker.empty()

    assert triggered(patient.beat()) == (200, 0)
    why = patient.operate("GET", "/flows/many%200")["why"]
    assert all(run.sent_at for run in runs(dbsession))
    assert "was handed to Celery at" in why
    beat_until(lambda: all(run.redeliveries for run in runs(dbsession)), server)
    assert "and sent again " in patient.operate("GET", "/flows/many%200")["why"]
    worker = work()
    beat_until(lambda: statuses(dbsession) == ["success"] * MANY, server)

    assert len(written(dbsession)) == MANY, worker.log()
    counts = [run.redeliveries for run in runs(dbsession)]
    assert min(counts) >= 1
    assert sum(dbsession.scalars(select(DataFlow.redelivered_count))) == sum(counts)
    assert " is sent again: no worker has begun it since " in server.log()


@pytest.mark.parametrize("fault", ["down", "silent"])
def test_without_a_broker_runs_stay_pending(
    broker: Broker, serve: Serve, dbsession: Session, fault: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        if fault == "down":
            silent.close()
        elsewhere = {**broker.settings, "heartbeat.celery_broker_url": broker.url_at(port)}
        [server, here] = serve("many", elsewhere, {})

        reply = server.beat()

    assert (triggered(reply), reply["flows_in_progress"]) == ((202, MANY), MANY)
    assert f"did not take {MANY} runs" in reply["note"]
    assert f"did not take {MANY} runs" in server.log()
    assert {(run.status, run.sent_at) for run in runs(dbsession)} == {("pending", None)}
    # Back to the local executor: nothing was lost.
    assert triggered(here.beat(Prefer="wait=60")) == (200, MANY)
    assert len(written(dbsession)) == MANY


def test_a_worker_reports_a_wrong_setting_in_one_line(
    broker: Broker, tmp_path: Path, folder: Path, database_url: str
) -> None:
    wrong = {**broker.settings, "heartbeat.celery_broker_url": "pigeon://localhost"}
    write_ini(tmp_path / "wrong.ini", "many", folder, database_url, **wrong)

    output = Worker.refused(tmp_path / "wrong.ini")

    assert output.count("\n") == 1
    assert output.startswith("Error: heartbeat.celery_broker_url cannot be used: begin it with")


def test_the_run_of_a_killed_worker_is_lost_with_its_lease(
    begin: Begin, work: Work, dbsession: Session, folder: Path
) -> None:
    server, first = begin("retry", **SOON)

    first.kill()
    second = work("-c", "1")
    (folder / "released").touch()
    beat_until(lambda: statuses(dbsession) == ["failed", "success"], server)

    [lost, retried] = runs(dbsession)
    assert (lost.error_type, retried.attempt) == ("LeaseExpired", 2), second.log()
    assert written(dbsession) == ["retry"]


def test_the_lease_of_a_long_run_is_renewed(begin: Begin, dbsession: Session, folder: Path) -> None:
    server, worker = begin("write last", **SOON)
    first = lease(dbsession)

    beat_until(lambda: lease(dbsession) > first + timedelta(seconds=3), server)
    (folder / "released").touch()

    wait_until(lambda: statuses(dbsession) == ["success"], worker.log())


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_that_stops_waits_for_its_runs(
    begin: Begin, dbsession: Session, folder: Path, pool: str
) -> None:
    _server, worker = begin("write last", pool)

    worker.tell_all(signal.SIGTERM)
    wait_until(lambda: "stopping: 1 running flows" in worker.log(), worker.log())
    (folder / "released").touch()

    assert worker.process.wait(SECONDS) == 0
    assert statuses(dbsession) == ["success"]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_runs_that_do_not_end_are_interrupted(begin: Begin, dbsession: Session, pool: str) -> None:
    _server, worker = begin("write last", pool, **{"heartbeat.shutdown_grace": "1s"})

    worker.tell_all(signal.SIGTERM)

    assert worker.process.wait(SECONDS) == 0
    [run] = runs(dbsession)
    assert (run.status, run.error_type) == ("failed", "Interrupted"), worker.log()
    assert written(dbsession) == []


def test_a_worker_goes_on_when_its_broker_is_back(
    begin: Begin, broker: Broker, dbsession: Session, folder: Path
) -> None:
    proxy = Proxy("127.0.0.1", urlsplit(broker.url).port or 0)
    here = {"heartbeat.celery_broker_url": broker.url_at(proxy.port)}
    server, worker = begin("two", **SOON, **here)

    # Its only process is busy: it waits for no message, and on Redis for no answer either.
    proxy.refuse()
    (folder / "released").touch()
    wait_until(lambda: "success" in statuses(dbsession), worker.log())
    notices = ("Connection to broker lost", "Couldn't ack")
    wait_until(lambda: any(notice in worker.log() for notice in notices), worker.log())
    proxy.heal()

    beat_until(lambda: statuses(dbsession) == ["success", "success"], server)
    assert "Connection to broker lost" in worker.log()
    proxy.close()
