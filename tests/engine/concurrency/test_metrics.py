"""`GET /metrics` of two processes under load: both agree with the database."""

import http.client
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from pyramid.config import Configurator
from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from data_flows.heartbeat.clock import Clock
from data_flows.heartbeat.models import DataFlow, DataFlowRun

from ..conftest import MakeApp
from ..factories import data_flow_run
from ..functional.scraping import Samples, counters, counts_of, read
from . import apart
from .conftest import OPERATOR, SECONDS, Serve, Server, at_once, wait_until
from .served import MANY

OLD = 450  # more than a step of pruning removes
PRUNED = 3  # flows with old runs
RUNS = "heartbeat_runs_total"


def scrape(server: Server) -> Samples:
    """Scrape a process over HTTP, as Prometheus does."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    try:
        headers = {"Authorization": f"Bearer {OPERATOR}"}
        connection.request("GET", "/heartbeat/metrics", headers=headers)
        response = connection.getresponse()
        text = response.read().decode()
        assert response.status == 200, text
        return read(text)
    finally:
        connection.close()


def totals(samples: Samples) -> dict[tuple[Any, ...], float]:
    """Return the counters of a scrape."""
    return {key: number for key, number in samples.items() if key[0].endswith("_total")}


def assert_agreement(servers: list[Server], dbsession: Session) -> None:
    """Compare what the processes report with each other and with the rows of the flows."""
    found = [scrape(server) for server in servers]
    assert len({frozenset(totals(samples).items()) for samples in found}) == 1
    dbsession.rollback()
    for flow in dbsession.scalars(select(DataFlow)):
        assert counters(found[0], flow.name) == counts_of(flow), flow.name


class Scraper(threading.Thread):
    """Scrapes servers one after the other until it is stopped; no counter may ever fall."""

    def __init__(self, servers: list[Server]) -> None:
        super().__init__(daemon=True)
        self.servers = servers
        self.scrapes = 0
        self.fallen: list[tuple[Any, ...]] = []
        self.error: BaseException | None = None
        self._stopped = threading.Event()

    def run(self) -> None:
        """Scrape."""
        highest: dict[tuple[Any, ...], float] = {}
        try:
            while not self._stopped.is_set():
                for server in self.servers:
                    found = totals(scrape(server))
                    self.fallen += [key for key in found if found[key] < highest.get(key, 0)]
                    highest = found
                    self.scrapes += 1
        except BaseException as error:  # noqa: BLE001 - the test reports it
            self.error = error

    def stop(self) -> None:
        """End it, and check what it found."""
        self._stopped.set()
        self.join(SECONDS)
        assert self.error is None, self.error
        assert self.fallen == []
        assert self.scrapes > 0


def make_due(dbsession: Session) -> None:
    """Make all flows due, at a slot without a run."""
    dbsession.rollback()
    dbsession.execute(update(DataFlow).values(next_run_at=Clock().now()))
    dbsession.commit()


def store_old_history(dbsession: Session) -> None:
    """Store old runs of some flows, and count them as their ends would have."""
    long_ago = Clock().now() - timedelta(days=99)
    flows = dbsession.scalars(select(DataFlow).order_by(DataFlow.id).limit(PRUNED)).all()
    for flow in flows:
        flow.success_count += OLD
        flow.success_seconds += OLD / 2
        ends = [long_ago + timedelta(seconds=number) for number in range(OLD)]
        old = {"status": "success", "data_flow_id": flow.id, "worker": "old", "duration": 0.5}
        dbsession.add_all(data_flow_run(ended_at=end, **old) for end in ends)
    dbsession.commit()


def counted(dbsession: Session, *conditions: ColumnElement[bool]) -> int:
    """Count the runs that fulfil conditions."""
    dbsession.rollback()
    return dbsession.scalar(select(func.count(DataFlowRun.id)).where(*conditions)) or 0


def test_two_processes_agree_with_the_database_before_during_and_after_pruning(
    serve: Serve, dbsession: Session
) -> None:
    few = {"heartbeat.keep_runs": "10"}
    servers = serve("many", few, few)
    scrape(servers[0])  # registers the flows
    store_old_history(dbsession)
    assert_agreement(servers, dbsession)
    scraper = Scraper(servers)
    scraper.start()
    succeeded = 0

    def history_is_removed() -> bool:
        nonlocal succeeded
        make_due(dbsession)
        replies = at_once(*[server.beat for server in servers for _ in range(2)])
        succeeded += sum(reply["flows_triggered"] for reply in replies)
        wait_until(lambda: not counted(dbsession, DataFlowRun.is_active()), "runs do not end")
        assert_agreement(servers, dbsession)
        return counted(dbsession, DataFlowRun.worker == "old") <= PRUNED * 10

    assert counted(dbsession) == PRUNED * OLD
    wait_until(history_is_removed, "history is not removed")
    scraper.stop()

    assert succeeded >= MANY
    assert_agreement(servers, dbsession)
    runs = {key: number for key, number in scrape(servers[1]).items() if RUNS in key}
    assert sum(runs.values()) == PRUNED * OLD + succeeded


def test_a_run_that_is_interrupted_at_shutdown_counts_as_failed(
    serve: Serve, dbsession: Session, folder: Path
) -> None:
    [server] = serve("write last", {"heartbeat.shutdown_grace": "1s", "heartbeat.wait": "0s"})
    server.beat()
    wait_until((folder / "inside").exists, "the flow never began")
    server.tell(signal.SIGTERM)
    server.process.wait(SECONDS)

    [other] = serve("write last", {})

    assert counted(dbsession, DataFlowRun.error_type == "Interrupted") == 1
    found = counters(scrape(other), "write last")
    assert (found["success_count"], found["failure_count"], found["reaped_count"]) == (0, 1, 0)
    assert_agreement([other], dbsession)


def test_a_run_whose_process_was_killed_counts_as_reaped(
    serve: Serve, dbsession: Session, folder: Path
) -> None:
    lease = {"heartbeat.lease": "3s"}
    doomed, other = serve("hold", {**lease, "heartbeat.wait": "0s"}, lease)
    doomed.beat()
    wait_until((folder / "inside").exists, "the flow never began")
    doomed.kill()
    (folder / "released").touch()

    def is_reaped() -> bool:
        other.beat()
        return counted(dbsession, DataFlowRun.error_type == "LeaseExpired") == 1

    wait_until(is_reaped, "the run was not reaped")

    found = counters(scrape(other), "hold")
    assert (found["failure_count"], found["reaped_count"]) == (1, 1)
    assert_agreement([other], dbsession)


def test_the_runs_of_child_processes_are_counted(
    make_app: MakeApp, post: Callable[..., Any], dbsession: Session
) -> None:
    def in_real_time(config: Configurator) -> None:
        config.registry["heartbeat"].clock = Clock()

    flows = [(function, {"timeout": "10m"}) for function in (apart.looks_around, apart.raises)]
    token = {"heartbeat.operator_token": OPERATOR, "heartbeat.wait": "10m"}
    app = make_app(*flows, configure=in_real_time, **token)
    post(app)

    headers = {"Authorization": f"Bearer {OPERATOR}"}
    samples = read(app.get("/heartbeat/metrics", headers=headers).text)

    dbsession.rollback()
    for flow in dbsession.scalars(select(DataFlow)):
        found = counters(samples, flow.name)
        assert (found["success_count"] or 0) + (found["failure_count"] or 0) == 1
        assert found == counts_of(flow)
