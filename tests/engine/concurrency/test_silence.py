"""The network to the database goes silent at the worst moments: no wait is without a limit."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import make_url, select
from sqlalchemy.orm import Session

from data_flows.heartbeat.models import DataFlowRun

from .conftest import SECONDS, Serve, Server, wait_until
from .proxy import Fault, Proxy
from .served import WRITTEN

CLAIM = rb"INSERT INTO data_flow_runs"
FINISH = rb"INSERT INTO written_by_tests"
RENEWAL = rb"UPDATE data_flow_runs SET lease_expires_at="
# A process whose callers do not wait for it.
NEVER_SCHEDULED = {"heartbeat.wait": "1s"}


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    """Stand between a server and its database."""
    url = make_url(database_url)
    ports = {"postgresql": 5432, "mysql": 3306}
    proxy = Proxy(url.host or "127.0.0.1", url.port or ports[url.get_backend_name()])
    yield proxy
    proxy.close()


@pytest.fixture
def through(database_url: str, proxy: Proxy) -> dict[str, str]:
    """Return settings that take a process to the database through the proxy."""
    url = make_url(database_url).set(host="127.0.0.1", port=proxy.port)
    return {**NEVER_SCHEDULED, "sqlalchemy.url": url.render_as_string(hide_password=False)}


def all_runs(dbsession: Session) -> list[DataFlowRun]:
    """Return the rows of all runs as they are now, oldest first."""
    dbsession.rollback()
    dbsession.expire_all()
    return list(dbsession.scalars(select(DataFlowRun).order_by(DataFlowRun.id)))


def statuses(dbsession: Session) -> list[str]:
    """Return the statuses of all runs, oldest first."""
    return [run.status for run in all_runs(dbsession)]


def written(dbsession: Session) -> list[Any]:
    """Return the names of the flows whose rows are committed."""
    dbsession.rollback()
    return sorted(dbsession.scalars(select(WRITTEN.c.flow_name)))


def beat_until_both_succeeded(server: Server, dbsession: Session) -> None:
    """Beat until two runs have succeeded, whatever the single replies have time to count."""

    def both_succeeded() -> bool:
        server.beat()
        return statuses(dbsession) == ["success"] * 2

    wait_until(both_succeeded, f"the runs did not end:\n{server.log()}")


def pause(server: Server, name: str) -> int:
    """Change a flow as an operator does; return the status of the reply."""
    status: int = server.operate("PATCH", f"/flows/{quote(name)}", timezone="UTC")["status"]
    return status


def test_after_a_claim_that_is_never_answered_its_process_goes_on(
    serve: Serve, proxy: Proxy, through: dict[str, str], dbsession: Session, folder: Path
) -> None:
    [cut_off] = serve("two", through)
    (folder / "released").touch()
    trap = proxy.trap(CLAIM, Fault.SILENT)

    assert cut_off.beat()["status"] == 202
    assert trap.sprung.wait(SECONDS)
    assert pause(cut_off, "write last 0") in {200, 503}
    beat_until_both_succeeded(cut_off, dbsession)

    assert written(dbsession) == ["write last 0", "write last 1"]
    assert "the database does not answer" in cut_off.log()


def test_after_a_claim_that_is_never_answered_another_process_claims(
    serve: Serve, proxy: Proxy, through: dict[str, str], dbsession: Session, folder: Path
) -> None:
    cut_off, other = serve("two", through, NEVER_SCHEDULED)
    (folder / "released").touch()
    trap = proxy.trap(CLAIM, Fault.SILENT)
    assert cut_off.beat()["status"] == 202
    assert trap.sprung.wait(SECONDS)
    proxy.silent = True

    assert pause(other, "write last 0") in {200, 503}
    beat_until_both_succeeded(other, dbsession)

    assert written(dbsession) == ["write last 0", "write last 1"]


def test_a_finish_that_is_never_answered_fails_its_run_and_blocks_no_other(
    serve: Serve, proxy: Proxy, through: dict[str, str], dbsession: Session, folder: Path
) -> None:
    cut_off, other = serve("write last", through | {"heartbeat.lease": "8s"}, NEVER_SCHEDULED)
    (folder / "released").touch()
    trap = proxy.trap(FINISH, Fault.SILENT)
    cut_off.beat()
    assert trap.sprung.wait(SECONDS)

    assert pause(other, "write last") in {200, 503}
    wait_until(lambda: statuses(dbsession) == ["failed"], "the run was never ended")

    [run] = all_runs(dbsession)
    assert run.error_type == "OperationalError"
    assert written(dbsession) == []
    assert "the database does not answer" in cut_off.log()


def test_a_run_is_reaped_whose_process_went_silent_at_its_finish(
    serve: Serve, proxy: Proxy, through: dict[str, str], dbsession: Session, folder: Path
) -> None:
    cut_off, other = serve("write last", through | {"heartbeat.lease": "8s"}, NEVER_SCHEDULED)
    (folder / "released").touch()
    trap = proxy.trap(FINISH, Fault.SILENT)
    cut_off.beat()
    assert trap.sprung.wait(SECONDS)
    proxy.silent = True

    wait_until(lambda: bool(other.beat()["runs_reaped"]), "the run was never reaped")

    [run] = all_runs(dbsession)
    assert (run.status, run.error_type) == ("failed", "LeaseExpired")
    assert written(dbsession) == []


def test_after_a_renewal_that_is_never_answered_the_lease_is_renewed_on(
    serve: Serve, proxy: Proxy, through: dict[str, str], dbsession: Session, folder: Path
) -> None:
    lease = {"heartbeat.lease": "6s"}
    cut_off, other = serve("write last", through | lease, NEVER_SCHEDULED | lease)
    trap = proxy.trap(RENEWAL, Fault.SILENT)
    cut_off.beat()
    assert trap.sprung.wait(SECONDS)
    [run] = all_runs(dbsession)
    assert run.lease_expires_at is not None
    first, reaped = run.lease_expires_at, list[int]()

    def renewed_twice() -> bool:
        reaped.append(other.beat()["runs_reaped"])
        lease_ends = all_runs(dbsession)[0].lease_expires_at
        return bool(lease_ends and (lease_ends - first).total_seconds() > 6)

    wait_until(renewed_twice, "the lease was not renewed any more")
    (folder / "released").touch()
    wait_until(lambda: statuses(dbsession) == ["success"], "the run did not end")

    assert sum(reaped) == 0
    assert written(dbsession) == ["write last"]


@pytest.mark.parametrize("fault", [Fault.LOSE_ANSWER, Fault.LOSE_ANSWER_SILENTLY])
def test_runs_whose_claim_was_committed_without_an_answer_are_executed_before_their_lease_ends(
    serve: Serve,
    proxy: Proxy,
    through: dict[str, str],
    dbsession: Session,
    folder: Path,
    *,
    fault: Fault,
) -> None:
    [cut_off] = serve("two", through)
    (folder / "released").touch()
    trap = proxy.trap(CLAIM, fault)
    cut_off.beat()
    assert trap.sprung.wait(SECONDS)

    beat_until_both_succeeded(cut_off, dbsession)

    assert written(dbsession) == ["write last 0", "write last 1"]
    assert len(re.findall("has not begun: released", cut_off.log())) == 2


def test_a_run_now_that_was_committed_without_an_answer_is_executed_once(
    serve: Serve, proxy: Proxy, through: dict[str, str], dbsession: Session, folder: Path
) -> None:
    [cut_off] = serve("write last", through)
    (folder / "released").touch()
    cut_off.beat()
    wait_until(lambda: statuses(dbsession) == ["success"], "the run did not end")
    trap = proxy.trap(CLAIM, Fault.LOSE_ANSWER)

    assert cut_off.operate("POST", "/flows/write%20last/runs")["status"] == 503
    assert trap.sprung.wait(SECONDS)
    cut_off.beat()

    wait_until(lambda: statuses(dbsession) == ["success"] * 2, "the run did not end")
    assert written(dbsession) == ["write last"] * 2


@pytest.mark.parametrize("fault", [Fault.LOSE_ANSWER, Fault.LOSE_ANSWER_SILENTLY])
def test_a_success_that_was_committed_without_an_answer_stays_one(
    serve: Serve,
    proxy: Proxy,
    through: dict[str, str],
    dbsession: Session,
    folder: Path,
    *,
    fault: Fault,
) -> None:
    [cut_off] = serve("write last", through | {"heartbeat.wait": "50s"})
    (folder / "released").touch()
    trap = proxy.trap(FINISH, fault)

    reply = cut_off.beat()

    assert trap.sprung.wait(SECONDS)
    assert (reply["flows_succeeded"], reply["flows_failed"]) == (1, 0)
    assert statuses(dbsession) == ["success"]
    assert written(dbsession) == ["write last"]


def test_a_failure_that_could_not_be_recorded_at_once_is_recorded_later(
    serve: Serve, proxy: Proxy, through: dict[str, str], dbsession: Session, folder: Path
) -> None:
    [cut_off] = serve("fail last", through)
    cut_off.beat()
    wait_until((folder / "inside").exists, "the flow never began")
    proxy.silent = True
    (folder / "released").touch()
    wait_until(lambda: "could not be recorded" in cut_off.log(), "nothing was tried")
    proxy.silent = False

    wait_until(lambda: statuses(dbsession) == ["failed", "pending"], "the run was not ended")

    failed, following = all_runs(dbsession)
    assert (failed.error_type, failed.error_message) == ("LookupError", "fail last")
    assert (following.trigger, following.attempt) == ("retry", 2)
    assert written(dbsession) == []


def test_a_network_that_is_silent_for_a_while_stops_nothing_for_good(
    serve: Serve, proxy: Proxy, through: dict[str, str], dbsession: Session, folder: Path
) -> None:
    [cut_off] = serve("two", through)
    (folder / "released").touch()
    proxy.silent = True
    assert cut_off.beat()["status"] in {202, 503}
    assert cut_off.operate("GET", "/flows")["status"] == 503
    proxy.silent = False

    beat_until_both_succeeded(cut_off, dbsession)
    assert written(dbsession) == ["write last 0", "write last 1"]
