"""Two versions of an application at once: what follows a failure, whichever of them records it."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import select
from sqlalchemy.orm import Session

from data_flows.heartbeat.cli import main
from data_flows.heartbeat.models import DataFlow, DataFlowRun

from .conftest import Serve, Server, wait_until
from .test_leases import BUSY, OTHER, all_runs, beat_until_reaped, begin, ended, written


def start_both(serve: Serve, knows: str, *, first: bool) -> tuple[Server, Server]:
    """Start a process with a flow and one that lacks its handler; the former `first`, or second."""
    if first:
        [knowing], [other] = serve(knows, BUSY), serve("other", OTHER)
    else:
        [other], [knowing] = serve("other", OTHER), serve(knows, BUSY)
    other.beat()
    return knowing, other


def output_of(server: Server, *words: str) -> str:
    """Return the output of a command with the settings of a server."""
    result = CliRunner().invoke(main, [*words, "-c", str(server.log_file.with_suffix(".ini"))])
    return result.output


def flow_of(dbsession: Session, name: str) -> DataFlow:
    dbsession.rollback()
    return dbsession.scalars(select(DataFlow).filter_by(name=name)).one()


@pytest.mark.parametrize("first", [True, False], ids=["old knows it", "new knows it"])
def test_a_lost_slot_is_due_again_though_the_process_that_reaps_it_lacks_the_handler(
    serve: Serve, dbsession: Session, folder: Path, *, first: bool
) -> None:
    doomed, other = start_both(serve, "retry last", first=first)
    begin(doomed, folder)
    doomed.kill()
    beat_until_reaped(other, dbsession)

    lost, again = all_runs(dbsession)
    assert (lost.status, lost.error_type) == ("failed", "LeaseExpired")
    assert (again.status, again.trigger, again.attempt) == ("pending", "retry", 2)
    assert "is not registered" in output_of(other, "why", "retry")
    assert f"Run {again.id} is pending: the next beat" in output_of(doomed, "why", "retry")

    # A process that lacks the handler leaves the attempt to one that has it.
    other.beat()
    assert all_runs(dbsession)[1].status == "pending"
    [restarted] = serve("retry last", OTHER)
    (folder / "released").touch()
    restarted.beat()
    wait_until(lambda: ended(dbsession, 2), "the next attempt never ended")

    assert [run.status for run in all_runs(dbsession)] == ["failed", "success"]
    assert written(dbsession) == [lost.scheduled_for]


def test_a_flow_is_paused_though_the_process_that_reaps_its_run_lacks_the_handler(
    serve: Serve, dbsession: Session, folder: Path
) -> None:
    doomed, other = start_both(serve, "pausing", first=True)
    begin(doomed, folder)
    doomed.kill()
    beat_until_reaped(other, dbsession)

    flow = flow_of(dbsession, "pausing")
    assert (flow.enabled, flow.failures_in_a_row) == (False, 1)
    assert "paused after 1 failures in a row" in (flow.disabled_reason or "")
    assert "It is disabled: paused after 1 failures" in output_of(doomed, "why", "pausing")
    runs = dbsession.scalars(select(DataFlowRun.status)).all()
    assert list(runs) == ["failed"]
