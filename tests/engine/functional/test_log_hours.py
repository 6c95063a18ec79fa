"""What an operator reads in a normal hour and in a bad one, as docs/logs.md shows it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, make_url, update
from sqlalchemy.orm import Session

from data_flows.heartbeat import migrations
from data_flows.heartbeat.db import make_engine
from data_flows.heartbeat.models import DataFlow, DataFlowRun

from ..factories import data_flow, data_flow_beat, data_flow_run
from .logged import PROJECT, SECONDS, Logged, environment, serve, write_ini

LONG_AGO = datetime.now(UTC) - timedelta(days=60)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Make a database in which `send_report` is known, with old history."""
    engine = make_engine(make_url(f"sqlite:///{tmp_path / 'logged.sqlite'}"))
    migrations.upgrade(engine)
    with Session(engine) as session:
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        session.add(data_flow(name="send_report", run_interval=86_400, next_run_at=tomorrow))
        session.add_all(data_flow_beat(received_at=LONG_AGO) for _ in range(3))
        session.flush()
        session.execute(update(DataFlow).values(declared_schedule="every 1d"))
        session.commit()
    yield engine
    engine.dispose()


def documented(title: str) -> set[str]:
    """Return the shapes of the lines that a section of docs/logs.md shows."""
    text = (
        (PROJECT / "docs/logs.md").read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    )
    # A line that is too long for the page continues with more spaces.
    lines = re.sub(r"\n {8,}", " ", text).splitlines()
    return {shape(line[4:]) for line in lines if re.match(r"    \d", line)}


def written(lines: list[dict[str, Any]]) -> set[str]:
    """Return the shapes of lines that a server has written."""
    return {shape("{asctime} {levelname} {message}".format_map(line)) for line in lines}


def shape(line: str) -> str:
    """Return a line without what differs between two hours: times, numbers, versions and URLs."""
    line = re.sub(r"\S+://\S+", "URL", line)
    line = re.sub(r"(the database) \S+", r"\1 NAME", line)
    line = re.sub(r"heartbeat \S+ serves", "heartbeat VERSION serves", line)
    return re.sub(r"\d[\d:.T+-]*", "0", line)


def change(engine: Engine, **columns: Any) -> None:
    """Make the import due, or the retry that waits for its time."""
    with Session(engine) as session:
        session.execute(update(DataFlow).where(DataFlow.name == "import_csv").values(**columns))
        session.execute(update(DataFlowRun).values(not_before=None))
        session.commit()


def lose_a_run(engine: Engine) -> None:
    """Leave a run as a process does that dies."""
    with Session(engine) as session:
        flow = session.query(DataFlow).filter_by(name="send_report").one()
        times = dict.fromkeys(("created_at", "updated_at", "started_at", "lease_expires_at"))
        columns: dict[str, Any] = dict.fromkeys(times, LONG_AGO)
        columns |= {"status": "in_progress", "claim_id": "lost", "worker": "app-1:4711"}
        session.add(data_flow_run(data_flow=flow, **columns))
        session.commit()


def test_a_normal_hour_is_written_as_documented(engine: Engine, tmp_path: Path) -> None:
    with serve(tmp_path, str(engine.url)) as server:
        assert server.post() == 200
        server.wait_for("pruning")
        assert server.post() == 200
        server.wait_for("beat .* nothing due")
        server.stop()

    assert written(server.lines) == documented("A normal hour")
    assert documented("A normal hour")
    _check_members(server)


def _check_members(server: Logged) -> None:
    """Compare the members of lines with the documented ones, and with each other."""
    text = (PROJECT / "docs/logs.md").read_text()
    shown = [
        json.loads(each) for each in re.findall(r"^    (\{.*?\})$", text, re.DOTALL | re.MULTILINE)
    ]
    by_shape = {shape(line["message"]): line for line in server.lines}
    assert len(shown) == 3
    for line in shown:
        real = by_shape[shape(line["message"])]
        assert list(line) == list(real)
        assert (line["levelname"], line["name"]) == (real["levelname"], real["name"])
    ids = [
        (line["beat_id"], line["run_id"], line["flow"]) for line in server.lines if "run_id" in line
    ]
    assert len(ids) == 3
    assert len(set(ids)) == 1


def test_a_bad_hour_is_written_as_documented(engine: Engine, tmp_path: Path) -> None:
    database = tmp_path / "logged.sqlite"
    with serve(tmp_path, str(engine.url)) as server:
        server.post()
        server.wait_for("beat .* due")
        begin = len(server.lines)
        (tmp_path / "bad").touch()
        for columns in ({"next_run_at": LONG_AGO}, {}):
            change(engine, **columns)
            assert server.post() == 200
        lose_a_run(engine)
        assert server.post() == 200
        assert [server.post("guessed") for _ in range(5)] == [401] * 5
        engine.dispose()
        database.rename(tmp_path / "away")
        assert [server.post() for _ in range(5)] == [503] * 5
        database.unlink(missing_ok=True)
        (tmp_path / "away").rename(database)
        assert server.post() == 200
        server.wait_for("beat .* nothing due")
        server.stop()

    lines = server.lines[begin:]
    assert written(lines) == documented("A bad hour")
    assert sum("refused" in line["message"] for line in lines) == 5
    assert sum("cannot work" in line["message"] for line in lines) == 1
    [retried, final] = [line for line in lines if line.get("error_type") == "ValueError"]
    assert (retried["levelname"], retried["attempt"]) == ("WARNING", 1)
    assert (final["levelname"], final["attempt"]) == ("ERROR", 2)
    assert "retry_at" in retried
    assert "retry_at" not in final
    assert retried["slot"] == final["slot"]


def test_commands_print_their_result_to_stdout_and_log_to_stderr(
    engine: Engine, tmp_path: Path
) -> None:
    ini = write_ini(tmp_path, str(engine.url))
    command = [sys.executable, "-m", "data_flows.heartbeat", "beat", "--json", "-c", str(ini)]

    ended = subprocess.run(  # noqa: S603 - our own file
        command,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )

    assert json.loads(ended.stdout)["flows_succeeded"] == 1
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["event"] for line in lines if "event" in line] == ["run", "beat"]
