"""`heartbeat beat --every`: real processes, real signals, and beats that go on whatever happens."""

import json
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import make_url, select
from sqlalchemy.orm import Session

from data_flows.heartbeat.cli import main
from data_flows.heartbeat.models import DataFlowBeat, DataFlowRun

from . import served
from .conftest import DATABASE, PROJECT, SECONDS, Server, environment, wait_until, write_ini
from .served import WRITTEN

COMMAND = Path(sys.executable).with_name("heartbeat")
SOURCE = f"command line scheduler on {socket.gethostname()}"
GRACE = {"heartbeat.shutdown_grace": "1s"}
# What a process promises to end within, in seconds, after its grace.
AFTERWARDS = 5
BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])

Schedule = Callable[..., Server]


def slow_and_quick(folder: Path) -> list[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """Return a flow that waits until it is released, and one that is due each second."""
    return [
        ("slow", served.write_last(folder), {"every": "1d"}),
        ("quick", served.write, {"every": "1s"}),
    ]


def each_second(_folder: Path) -> list[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """Return two flows that are due each second."""
    return [(name, served.write, {"every": "1s"}) for name in ("first", "second")]


@pytest.fixture
def schedule(tmp_path: Path, folder: Path, database_url: str, written: None) -> Iterator[Schedule]:
    """Start `heartbeat beat --every 1s` for the flows of a name, in a process of its own."""
    del written  # it must be there
    started: list[Server] = []

    def start(flows: Any, *options: str, url: str = database_url, **settings: str) -> Server:
        if callable(flows):
            flows = f"{__name__}:{flows.__name__}"
        ini_file = tmp_path / f"scheduler {len(started)}.ini"
        port = write_ini(ini_file, flows, folder, url, **settings)
        log_file = ini_file.with_suffix(".log")
        with log_file.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - the installed command
                [COMMAND, "beat", "--every", "1s", *options, "-c", ini_file],
                env=environment(),
                cwd=PROJECT,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        started.append(Server(port, process, log_file))
        return started[-1]

    yield start
    for each in started:
        each.kill()


def wait_for_line(scheduler: Server, text: str) -> None:
    """Wait until a scheduler has printed or logged a text."""

    def found() -> bool:
        assert scheduler.process.poll() is None or text in scheduler.log(), scheduler.log()
        return text in scheduler.log()

    wait_until(found, f"no line has {text!r}")


def printed(scheduler: Server) -> list[str]:
    """Return the lines of beats that a scheduler has printed."""
    return [line for line in scheduler.log().splitlines() if line[8:14] == " UTC: "]


def runs(dbsession: Session) -> list[DataFlowRun]:
    """Read all runs in a new transaction, oldest first."""
    dbsession.rollback()
    found = list(dbsession.scalars(select(DataFlowRun).order_by(DataFlowRun.id)))
    dbsession.rollback()
    return found


def written_by(dbsession: Session, name: str) -> int:
    """Count how often a flow has written."""
    dbsession.rollback()
    found = list(dbsession.scalars(select(WRITTEN.c.flow_name).where(WRITTEN.c.flow_name == name)))
    dbsession.rollback()
    return len(found)


def beats(dbsession: Session) -> list[DataFlowBeat]:
    """Read all beats in a new transaction, oldest first."""
    dbsession.rollback()
    found = list(dbsession.scalars(select(DataFlowBeat).order_by(DataFlowBeat.id)))
    dbsession.rollback()
    return found


def test_it_beats_with_a_source_of_its_own_and_is_quiet_when_nothing_is_due(
    schedule: Schedule, dbsession: Session
) -> None:
    scheduler = schedule("many")

    wait_until(lambda: len(beats(dbsession)) >= 4, "it does not go on beating")

    assert {beat.source for beat in beats(dbsession)} == {SOURCE}
    [line] = printed(scheduler)
    assert line.endswith(" UTC: 20 due, 20 succeeded")


def test_its_first_beat_is_printed_although_nothing_is_due(
    schedule: Schedule, dbsession: Session
) -> None:
    scheduler = schedule("other")

    wait_until(lambda: len(beats(dbsession)) >= 3, "it does not go on beating")

    [line] = printed(scheduler)
    assert line.endswith(" UTC: nothing due")


def test_with_json_each_beat_is_a_line(schedule: Schedule, dbsession: Session) -> None:
    scheduler = schedule("other", "--json")

    wait_until(lambda: len(beats(dbsession)) >= 3, "it does not go on beating")
    wait_until(lambda: scheduler.log().count("{") >= 3, "it does not print each beat")

    lines = [line for line in scheduler.log().splitlines() if line.startswith("{")]
    assert {json.loads(line)["flows_due"] for line in lines[:3]} == {0}
    assert json.loads(lines[0]).keys() == json.loads(lines[1]).keys() >= {"timestamp", "duration"}


def test_a_slow_flow_keeps_no_later_beat_from_its_work(
    schedule: Schedule, dbsession: Session, folder: Path
) -> None:
    scheduler = schedule(slow_and_quick)

    wait_until((folder / "inside").exists, "the slow flow never began")
    wait_until(lambda: written_by(dbsession, "quick") >= 3, "the quick flow waits for the slow one")

    assert written_by(dbsession, "slow") == 0
    (folder / "released").touch()
    wait_until(lambda: written_by(dbsession, "slow") == 1, "the slow flow never ended")
    assert "1 in progress" in printed(scheduler)[0]


def test_several_schedulers_run_no_slot_twice(schedule: Schedule, dbsession: Session) -> None:
    schedulers = [schedule(each_second) for _ in range(3)]

    wait_until(lambda: written_by(dbsession, "first") >= 4, "the flows do not run")
    for each in schedulers:
        each.tell(signal.SIGTERM)
    assert [each.process.wait(20 + AFTERWARDS) for each in schedulers] == [0, 0, 0]

    dbsession.rollback()
    slots = Counter(dbsession.execute(select(WRITTEN.c.flow_name, WRITTEN.c.slot)).all())
    assert set(slots.values()) == {1}
    assert {run.status for run in runs(dbsession)} == {"success"}


# ---------------------------------------------------------------------------------------------
# The database


def test_it_waits_for_a_database_that_is_not_there_yet(
    schedule: Schedule, fresh_database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scheduler = schedule("other", "--json", url=fresh_database_url)
    wait_for_line(scheduler, "no beat, retrying every 1s: the database ")
    monkeypatch.setenv("DATABASE_URL", fresh_database_url)

    migrated = CliRunner().invoke(main, ["migrate", "-c", str(tmp_path / "scheduler 0.ini")])

    assert migrated.exit_code == 0, migrated.output
    wait_for_line(scheduler, "INFO data_flows.heartbeat.optional.scheduler.rhythm beats work again")
    wait_for_line(scheduler, '{"timestamp"')
    # One line for each state of the database: missing, and created without tables.
    assert 1 <= scheduler.log().count("no beat, ") <= 2
    assert "Traceback" not in scheduler.log()
    scheduler.tell(signal.SIGTERM)
    assert scheduler.process.wait(20 + AFTERWARDS) == 0


@BOTH
def test_it_ends_with_0_while_it_waits_for_its_database(
    schedule: Schedule, database_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    name = str(tmp_path / "missing.sqlite") if DATABASE == "sqlite" else "missing"
    url = make_url(database_url).set(database=name).render_as_string(hide_password=False)
    scheduler = schedule("other", url=url)
    wait_for_line(scheduler, "no beat, ")

    scheduler.tell(number)

    assert scheduler.process.wait(20 + AFTERWARDS) == 0


# ---------------------------------------------------------------------------------------------
# The end


@BOTH
def test_an_idle_scheduler_ends_with_0(
    schedule: Schedule, folder: Path, number: signal.Signals
) -> None:
    scheduler = schedule("other")
    wait_for_line(scheduler, "nothing due")

    scheduler.tell(number)

    assert scheduler.process.wait(20 + AFTERWARDS) == 0
    assert (folder / "at exit").exists()


@BOTH
def test_a_run_ends_in_its_grace_and_nothing_is_claimed_meanwhile(
    schedule: Schedule, dbsession: Session, folder: Path, number: signal.Signals
) -> None:
    scheduler = schedule("two", **{"heartbeat.workers": "1"})
    wait_until((folder / "inside").exists, "the flow never began")
    scheduler.tell(number)
    wait_for_line(scheduler, "stopping: ")

    (folder / "released").touch()

    assert scheduler.process.wait(20 + AFTERWARDS) == 0
    assert [run.status for run in runs(dbsession)] == ["success"]
    assert printed(scheduler)[-1].endswith("2 due, 1 succeeded"), scheduler.log()


@BOTH
def test_a_run_that_does_not_end_is_interrupted(
    schedule: Schedule, dbsession: Session, folder: Path, number: signal.Signals
) -> None:
    scheduler = schedule("write last", **GRACE)
    wait_until((folder / "inside").exists, "the flow never began")

    scheduler.tell(number)

    assert scheduler.process.wait(1 + AFTERWARDS) == 0
    [run] = runs(dbsession)
    assert (run.status, run.error_type) == ("failed", "Interrupted")
    assert written_by(dbsession, "write last") == 0
    assert (folder / "at exit").exists()


def test_a_thread_that_never_ends_keeps_no_process(
    schedule: Schedule, dbsession: Session, folder: Path
) -> None:
    scheduler = schedule("cling", **GRACE)
    wait_until((folder / "inside").exists, "the flow never began")

    scheduler.tell(signal.SIGTERM)

    assert scheduler.process.wait(1 + AFTERWARDS) == 0
    assert [run.error_type for run in runs(dbsession)] == ["Interrupted"]


@BOTH
def test_a_second_signal_ends_the_process_at_once(
    schedule: Schedule, dbsession: Session, folder: Path, number: signal.Signals
) -> None:
    scheduler = schedule("write last", **{"heartbeat.shutdown_grace": "1h"})
    wait_until((folder / "inside").exists, "the flow never began")
    scheduler.tell(number)
    wait_for_line(scheduler, "stopping: ")

    scheduler.tell(number)

    assert scheduler.process.wait(SECONDS) == 128 + number
    assert [run.status for run in runs(dbsession)] == ["in_progress"]


def test_it_ends_when_nobody_reads_its_lines_any_more(
    tmp_path: Path, folder: Path, database_url: str, dbsession: Session
) -> None:
    ini_file = tmp_path / "piped.ini"
    write_ini(ini_file, "other", folder, database_url)
    with subprocess.Popen(  # noqa: S603 - the installed command
        [COMMAND, "beat", "--every", "1s", "--json", "-c", ini_file],
        env=environment(),
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        process.stdout.close()
        status = process.wait(SECONDS)
        log = process.stderr.read()

    assert json.loads(first)["flows_due"] == 0
    assert (status, "BrokenPipeError" in log) == (0, False), log
    assert len(beats(dbsession)) >= 2
