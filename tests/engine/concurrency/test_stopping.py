"""A process that is stopped: real servers, real signals."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlow, DataFlowBeat, DataFlowRun
from data_flows.heartbeat.stopping import drain

from ..conftest import MakeApp
from ..notes import Note
from .conftest import DATABASE, SECONDS, Serve, Server, wait_until
from .served import WRITTEN

GRACE = {"heartbeat.shutdown_grace": "1s"}
# What the process promises to end within, in seconds, after its grace.
AFTERWARDS = 5
BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@contextmanager
def beating(server: Server) -> Iterator[list[dict[str, Any]]]:
    """Beat on a thread; at the end of the block the reply is in the list, if there was one."""
    replies: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: replies.append(server.beat()), daemon=True)
    thread.start()
    yield replies
    thread.join(SECONDS)


def begin_to_stop(server: Server, number: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal, and wait until the process begins to stop."""
    server.tell(number)
    wait_until(lambda: "stopping: " in server.log(), "the process did not notice the signal")


def runs(dbsession: Session) -> list[DataFlowRun]:
    """Read all runs in a new transaction, oldest first."""
    dbsession.rollback()
    found = list(dbsession.scalars(select(DataFlowRun).order_by(DataFlowRun.id)))
    dbsession.rollback()
    return found


def written(dbsession: Session) -> list[str]:
    """Read which flows have written."""
    dbsession.rollback()
    return list(dbsession.scalars(select(WRITTEN.c.flow_name)))


@BOTH
def test_an_idle_process_ends_with_0(serve: Serve, folder: Path, number: signal.Signals) -> None:
    [server] = serve("many", {})

    server.tell(number)

    assert server.process.wait(20 + AFTERWARDS) == 0
    assert (folder / "at exit").exists()


@BOTH
def test_a_run_ends_in_its_grace_and_its_beat_is_answered(
    serve: Serve, dbsession: Session, folder: Path, number: signal.Signals
) -> None:
    [server] = serve("hold", {})

    with beating(server) as replies:
        wait_until((folder / "inside").exists, "the flow never began")
        begin_to_stop(server, number)
        (folder / "released").touch()

    assert server.process.wait(20 + AFTERWARDS) == 0
    [reply] = replies
    assert (reply["status"], reply["flows_succeeded"], reply["flows_in_progress"]) == (200, 1, 0)
    assert [run.status for run in runs(dbsession)] == ["success"]
    assert written(dbsession) == ["hold"]


def test_a_beat_that_waits_for_a_slot_ends_with_its_process(
    serve: Serve, dbsession: Session, folder: Path
) -> None:
    [server] = serve("write last", {"heartbeat.wait": "60s"})
    (folder / "released").touch()
    assert server.beat()["flows_succeeded"] == 1
    slot = datetime.now(UTC) + timedelta(seconds=29)
    dbsession.execute(update(DataFlow).values(next_run_at=slot))
    dbsession.commit()

    def beats() -> int | None:
        dbsession.rollback()
        return dbsession.scalar(select(func.count()).select_from(DataFlowBeat))

    with beating(server) as replies:
        # The row of a beat is written before it waits.
        wait_until(lambda: beats() == 2, "the second beat never came")
        begin_to_stop(server)

    assert server.process.wait(20 + AFTERWARDS) == 0
    [reply] = replies
    assert reply["duration"] < 28, "it waited for the slot"
    assert (reply["status"], reply["flows_due"], reply["flows_triggered"]) == (200, 0, 0)
    assert len(runs(dbsession)) == 1


def test_nothing_is_claimed_while_the_process_stops(
    serve: Serve, dbsession: Session, folder: Path
) -> None:
    [server] = serve("two", {"heartbeat.workers": "1"})

    with beating(server) as replies:
        wait_until((folder / "inside").exists, "the flow never began")
        begin_to_stop(server)
        meanwhile = server.beat()
        (folder / "released").touch()

    assert server.process.wait(20 + AFTERWARDS) == 0
    assert meanwhile["status"] == 200
    assert (meanwhile["flows_due"], meanwhile["flows_triggered"]) == (1, 0)
    assert [reply["flows_succeeded"] for reply in replies] == [1]
    assert len(runs(dbsession)) == len(written(dbsession)) == 1


@BOTH
def test_a_run_that_does_not_end_is_interrupted(
    serve: Serve, dbsession: Session, folder: Path, number: signal.Signals
) -> None:
    [server] = serve("write last", GRACE)

    with beating(server) as replies:
        wait_until((folder / "inside").exists, "the flow never began")
        server.tell(number)
        status = server.process.wait(1 + AFTERWARDS)

    assert status == 0
    [reply] = replies
    assert (reply["status"], reply["flows_triggered"], reply["flows_in_progress"]) == (202, 1, 1)
    [run] = runs(dbsession)
    assert (run.status, run.error_type) == ("failed", "Interrupted")
    assert "shutdown_grace" in (run.error_message or "")
    assert dbsession.scalars(select(DataFlow.last_run_status)).one() == "failed"
    assert written(dbsession) == []
    assert "child processes of runs may outlive this process" in server.log()
    assert (folder / "at exit").exists()


def test_an_interrupted_run_is_retried_where_the_flow_declares_it(
    serve: Serve, dbsession: Session, folder: Path
) -> None:
    [server] = serve("retry last", {**GRACE, "heartbeat.wait": "0s"})
    server.beat()
    wait_until((folder / "inside").exists, "the flow never began")
    server.tell(signal.SIGTERM)
    assert server.process.wait(1 + AFTERWARDS) == 0
    first, second = runs(dbsession)
    assert (first.status, first.error_type, first.attempt) == ("failed", "Interrupted", 1)
    assert (second.status, second.trigger, second.attempt) == ("pending", "retry", 2)
    assert second.scheduled_for == first.scheduled_for

    (folder / "released").touch()
    [following] = serve("retry last", {})
    reply = following.beat()

    assert (reply["flows_triggered"], reply["flows_succeeded"]) == (1, 1)
    assert [run.status for run in runs(dbsession)] == ["failed", "success"]
    assert written(dbsession) == ["retry"]


def test_a_run_that_has_written_leaves_nothing(
    serve: Serve, dbsession: Session, folder: Path
) -> None:
    """On SQLite it holds the only write lock, so that its end cannot be recorded: it is reaped."""
    lease = {"heartbeat.lease": "3s"}
    [server] = serve("hold", {**GRACE, **lease})

    with beating(server) as replies:
        wait_until((folder / "inside").exists, "the flow never began")
        server.tell(signal.SIGTERM)
        status = server.process.wait(1 + AFTERWARDS)

    assert status == 0
    assert [reply["status"] for reply in replies] == [202]
    assert written(dbsession) == []
    [run] = runs(dbsession)
    if DATABASE != "sqlite":
        assert (run.status, run.error_type) == ("failed", "Interrupted")
        return
    assert run.status == "in_progress"
    (folder / "released").touch()
    [following] = serve("hold", lease)
    wait_until(lambda: following.beat()["runs_reaped"] == 1, "the run was never reaped")
    assert runs(dbsession)[0].error_type == "LeaseExpired"


def test_a_thread_that_never_ends_keeps_no_process(
    serve: Serve, dbsession: Session, folder: Path
) -> None:
    [server] = serve("cling", {**GRACE, "heartbeat.wait": "0s"})
    server.beat()
    wait_until((folder / "inside").exists, "the flow never began")

    server.tell(signal.SIGTERM)

    assert server.process.wait(1 + AFTERWARDS) == 0
    assert [run.error_type for run in runs(dbsession)] == ["Interrupted"]


@BOTH
def test_a_second_signal_ends_the_process_at_once(
    serve: Serve, dbsession: Session, folder: Path, number: signal.Signals
) -> None:
    [server] = serve("hold", {"heartbeat.shutdown_grace": "1h", "heartbeat.wait": "0s"})
    server.beat()
    wait_until((folder / "inside").exists, "the flow never began")
    begin_to_stop(server)

    server.tell(number)

    assert server.process.wait(SECONDS) == 128 + number
    assert [run.status for run in runs(dbsession)] == ["in_progress"]


@pytest.mark.usefixtures("notes")
def test_an_interrupted_flow_that_goes_on_commits_nothing(
    make_app: MakeApp, post: Any, dbsession: Session
) -> None:
    inside, let_go = threading.Event(), threading.Event()

    threads = []

    def work(run: Run) -> None:
        threads.append(threading.current_thread())
        inside.set()
        let_go.wait(SECONDS)
        run.session.add(Note(name=run.flow_name, mark="late", size=1))

    app = make_app(work, **{"heartbeat.shutdown_grace": "0s"})
    post(app, status=202, Prefer="wait=0")
    assert inside.wait(SECONDS)
    [thread] = threads

    drain()
    let_go.set()
    thread.join(SECONDS)

    assert not thread.is_alive()
    assert [run.error_type for run in runs(dbsession)] == ["Interrupted"]
    assert dbsession.scalars(select(Note)).all() == []
