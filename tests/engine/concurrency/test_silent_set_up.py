"""The network goes silent before the first statement: a new connection or a BEGIN is given up."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from data_flows.heartbeat.db import BOOKKEEPING, UNLIMITED, Limits, make_engine, reason
from data_flows.heartbeat.models import DataFlowRun

from .conftest import DATABASE, SECONDS, Serve, wait_until
from .proxy import Fault, Proxy

# The longest time in which a silent connection must be given up, in seconds.
LONGEST = 30
EVERYTHING = rb"(?s).*"
# What both dialects of SQLAlchemy ask their server first.
FIRST_QUESTION = rb"(?i)SELECT (pg_catalog\.)?version\(\)"
# How a flow's transaction begins on PostgreSQL: without the limits of the engine's own.
BEGIN = rb"BEGIN ISOLATION LEVEL READ COMMITTED; \0"
MakeProxy = Callable[[], Proxy]


@pytest.fixture
def make_proxy(database_url: str) -> Iterator[MakeProxy]:
    """Make proxies before the database."""
    url = make_url(database_url)
    ports = {"postgresql": 5432, "mysql": 3306}
    proxies: list[Proxy] = []

    def make() -> Proxy:
        proxies.append(Proxy(url.host or "127.0.0.1", url.port or ports[url.get_backend_name()]))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()


def url_through(proxy: Proxy, database_url: str) -> str:
    """Return the URL of the database that leads through a proxy."""
    url = make_url(database_url).set(host="127.0.0.1", port=proxy.port)
    return url.render_as_string(hide_password=False)


class Attempt:
    """An engine's first connection, on a thread, which is silent from its request `number` on."""

    def __init__(self, proxy: Proxy, url: str, number: int, limits: Limits) -> None:
        self.error: DBAPIError | None = None
        self.trap = proxy.trap(b"", Fault.SILENT, at=EVERYTHING, skips=number)
        self.engine = make_engine(make_url(url), limits=limits)
        self.began = time.monotonic()
        self.thread = threading.Thread(target=self.connect, daemon=True)
        self.thread.start()

    def connect(self) -> None:
        """Connect, and keep the error."""
        try:
            self.engine.connect().close()
        except DBAPIError as error:
            self.error = error

    def has_ended(self) -> bool:
        """Wait until it has ended, if it does in time."""
        self.thread.join(max(self.began + LONGEST - time.monotonic(), 0))
        self.engine.dispose()
        return not self.thread.is_alive()


@pytest.mark.parametrize("limits", [BOOKKEEPING, UNLIMITED], ids=["bookkeeping", "flows"])
def test_a_connection_that_goes_silent_at_any_step_of_its_set_up_is_given_up(
    make_proxy: MakeProxy, database_url: str, limits: Limits
) -> None:
    whole = make_proxy()
    engine = make_engine(make_url(url_through(whole, database_url)), limits=limits)
    every_step = whole.trap(b"", Fault.DELAY, at=EVERYTHING, times=1_000)
    with engine.connect():
        steps = 1_000 - every_step.times
    engine.dispose()
    assert steps > 5

    attempts = list[Attempt]()
    for number in range(steps):
        proxy = make_proxy()
        attempts.append(Attempt(proxy, url_through(proxy, database_url), number, limits))

    hanging = [number for number, attempt in enumerate(attempts) if not attempt.has_ended()]
    assert hanging == []
    assert all(attempt.trap.sprung.is_set() for attempt in attempts)
    reasons = [reason(attempt.error) if attempt.error else "no error" for attempt in attempts]
    assert [each for each in reasons if "not answered" not in each and "timeout" not in each] == []


def test_a_process_goes_on_whose_first_connection_was_never_set_up(
    serve: Serve, make_proxy: MakeProxy, database_url: str, dbsession: Session
) -> None:
    del dbsession  # it makes the tables
    proxy = make_proxy()
    url = url_through(proxy, database_url)
    [server] = serve("many", {"heartbeat.wait": "1s", "sqlalchemy.url": url})
    trap = proxy.trap(b"", Fault.SILENT, at=FIRST_QUESTION)

    assert server.beat()["status"] in {202, 503}
    assert trap.sprung.wait(SECONDS)

    def triggered() -> bool:
        return bool(server.beat().get("flows_triggered"))

    wait_until(triggered, f"beats trigger nothing any more:\n{server.log()}")
    assert "the database does not answer" in server.log()


if DATABASE == "postgresql":  # elsewhere the first statement begins it

    def test_a_flow_whose_transaction_never_begins_is_failed(
        serve: Serve, make_proxy: MakeProxy, database_url: str, dbsession: Session, folder: Path
    ) -> None:
        proxy = make_proxy()
        settings = {"heartbeat.wait": "1s", "sqlalchemy.url": url_through(proxy, database_url)}
        [server] = serve("write last", settings)
        server.beat()
        wait_until((folder / "inside").exists, "the flow never began")
        trap = proxy.trap(b"", Fault.SILENT, at=BEGIN)
        (folder / "released").touch()

        def failed() -> bool:
            dbsession.rollback()
            return dbsession.scalars(select(DataFlowRun.status)).all() == ["failed"]

        wait_until(failed, f"the run was not ended:\n{server.log()}")
        assert trap.sprung.wait(SECONDS)
