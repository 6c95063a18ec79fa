"""`heartbeat rehearse`: a flow runs in its real transaction, and everything is rolled back."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, MetaData, make_url, select, text
from sqlalchemy.orm import Session

from data_flows.heartbeat.cli import main
from data_flows.heartbeat.db import Limits, make_engine
from data_flows.heartbeat.models import DataFlow

from ..conftest import DATABASE, TOKEN
from ..factories import data_flow
from ..notes import Note
from . import rehearsed

Rehearse = Callable[..., Any]
Printed = Callable[..., "Done"]
Snapshot = dict[str, tuple[int, str]]

pytestmark = pytest.mark.usefixtures("notes")
SECONDS = 120
PROJECT = Path(rehearsed.__file__).parents[3]
TABLE = Note.__tablename__


class Done(NamedTuple):
    """How a command ended."""

    code: int
    output: str
    errors: str


@pytest.fixture
def complete(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """Complete the arguments of a command, for the application of `rehearsed`."""
    monkeypatch.setenv("TEST_FOLDER", str(tmp_path))
    ini_file = tmp_path / "rehearsed.ini"
    given = {
        "sqlalchemy.url": database_url.replace("%", "%%"),
        "heartbeat.token": TOKEN,
        "use": f"call:{rehearsed.__name__}:application",
    }
    lines = [f"{name} = {value}" for name, value in given.items()]
    ini_file.write_text("\n".join(["[app:main]", *lines, ""]))
    return lambda *arguments: [*arguments, "-c", str(ini_file)]


@pytest.fixture
def heartbeat(complete: Callable[..., list[str]]) -> Printed:
    """Call a command."""

    def call(*given: str) -> Done:
        result = CliRunner().invoke(main, complete(*given))
        return Done(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture
def installed(complete: Callable[..., list[str]]) -> Printed:
    """Call the installed command, in a process of its own."""

    def call(*given: str) -> Done:
        done = subprocess.run(  # noqa: S603 - our own command
            [str(Path(sys.prefix, "bin", "heartbeat")), *complete(*given)],
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            check=False,
            text=True,
            timeout=SECONDS,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Look at the database as another process."""
    engine = make_engine(make_url(database_url), limits=Limits(write_lock=10, lock=10))
    yield engine
    engine.dispose()


def snapshot(engine: Engine) -> Snapshot:
    """Return the number and the checksum of the rows of each table in the database."""
    metadata, found = MetaData(), {}
    metadata.reflect(engine)
    with engine.connect() as connection:
        for table in metadata.tables.values():
            rows = sorted(repr(tuple(each)) for each in connection.execute(select(table)))
            found[table.name] = (len(rows), sha256("\n".join(rows).encode()).hexdigest())
    return found


def rehearse_by(command: Printed, engine: Engine) -> Rehearse:
    """Return a function that rehearses a flow, which must leave the database as it was."""

    def call(name: str, *arguments: str, status: str) -> Any:
        before = snapshot(engine)
        done = command("rehearse", name, "--json", *arguments)
        assert done.output, done.errors
        ended = json.loads(done.output)
        assert (ended["status"], done.code) == (status, int(status == "failed")), done.output
        assert snapshot(engine) == before
        return ended

    return call


@pytest.fixture
def rehearse(heartbeat: Printed, engine: Engine) -> Rehearse:
    """Rehearse a flow; return the members."""
    return rehearse_by(heartbeat, engine)


@pytest.fixture
def rehearse_installed(installed: Printed, engine: Engine) -> Rehearse:
    """Rehearse a flow by the installed command; return the members."""
    return rehearse_by(installed, engine)


@pytest.fixture
def stored(dbsession: Session, notes: None) -> None:
    """Store rows that flows may change, and a flow's row that a run has changed."""
    del notes  # their table must be there
    dbsession.add_all([Note(name=f"note {number}", mark=f"note {number}") for number in range(5)])
    dbsession.add(data_flow(name="work", handler="work", failures_in_a_row=2))
    dbsession.commit()


def rows_of(ended: Any) -> dict[str, int]:
    """Return what was written to the only table."""
    assert list(ended["tables"]) == [TABLE]
    return {kind: count for kind, count in ended["tables"][TABLE].items() if count}


@pytest.mark.usefixtures("stored")
def test_it_shows_result_log_and_rows_and_leaves_nothing(rehearse_installed: Rehearse) -> None:
    ended = rehearse_installed("work", status="success")

    assert rows_of(ended) == {"inserted": 6, "updated": 3, "deleted": 2}
    assert ended["result"]["rows"] == 6
    assert ended["result"]["window"][1] == ended["window_end"].replace("Z", "+00:00")
    assert ended["log"].endswith("INFO at work on {}\n") or "at work on" in ended["log"]
    assert ended["duration"] > 0
    assert (ended["error"], ended["other_statements"]) == (None, {})


def test_people_get_the_same_in_a_few_lines(heartbeat: Printed) -> None:
    done = heartbeat("rehearse", "work", "--set", "region=us")

    assert done.code == 0, done.errors
    words = [line.split() for line in done.output.splitlines()]
    assert ["flow", "work"] in words
    assert ["table", "inserted", "updated", "deleted", "upserted"] in words
    assert [TABLE, "6", "3", "2", "0"] in words
    assert "success; all that it wrote is rolled back" in done.output
    assert "at work on {'region': 'us'}" in done.output


def test_a_flow_without_a_row_is_rehearsed_and_gets_none(
    rehearse: Rehearse, dbsession: Session
) -> None:
    rehearse("limited", status="success")

    assert dbsession.scalars(select(DataFlow.id)).all() == []


def test_savepoints_that_are_rolled_back_do_not_count(rehearse_installed: Rehearse) -> None:
    assert rows_of(rehearse_installed("savepoints", status="success")) == {"inserted": 2}


@pytest.mark.parametrize("name", ["fail", "retried"])
def test_a_failing_flow_is_shown_as_its_run_would_be(
    rehearse_installed: Rehearse, heartbeat: Printed, name: str
) -> None:
    ended = rehearse_installed(name, status="failed")

    assert (ended["error"], ended["result"]) == ("LookupError: no such bird", None)
    assert 'raise LookupError("no such bird")' in ended["error_backtrace"]
    assert rows_of(ended) == {"inserted": 6, "updated": 3, "deleted": 2}
    printed = heartbeat("rehearse", name)
    assert printed.code == 1
    assert 'raise LookupError("no such bird")' in printed.output


def test_many_rows_are_counted_and_rolled_back(rehearse_installed: Rehearse) -> None:
    assert rows_of(rehearse_installed("many", status="success")) == {"inserted": rehearsed.MANY}


def test_a_swallowed_database_error_fails_it(rehearse: Rehearse) -> None:
    ended = rehearse("swallow", status="failed")

    assert ended["error_type"].endswith("IntegrityError")
    assert "begin_nested()" in ended["error_backtrace"]
    assert rows_of(ended) == {"inserted": 1}


def test_commits_are_refused(rehearse: Rehearse) -> None:
    ended = rehearse("commits", status="failed")

    assert ended["error"].startswith("SessionControlError: the flow called run.session.commit()")


def test_a_commit_beside_the_session_is_refused(rehearse: Rehearse) -> None:
    ended = rehearse("beside", status="failed")
    assert "tried a commit of its own" in ended["error"]
    ended = rehearse("beside", "--set", "auto=1", status="failed")
    assert "in the mode AUTOCOMMIT: not executed" in ended["error"]


def test_ddl_is_rolled_back_or_refused(rehearse: Rehearse) -> None:
    commits_itself = DATABASE == "mysql"

    ended = rehearse("create", status="failed" if commits_itself else "success")

    assert rows_of(ended) == {"inserted": 1}
    if commits_itself:
        assert "the flow sent CREATE TABLE, which this database may commit" in ended["error"]
        assert ended["other_statements"] == {}
    else:
        assert ended["other_statements"] == {"CREATE TABLE": 1}


def test_no_hook_of_a_commit_is_called(rehearse: Rehearse, tmp_path: Path) -> None:
    rehearse("mail", status="success")

    assert not (tmp_path / "mail").exists()


def test_a_flow_with_a_timeout_is_ended_in_time(rehearse: Rehearse) -> None:
    ended = rehearse("hang", status="failed")

    assert ended["error"] == "FlowTimeout: ran longer than its timeout of 5s"
    assert (ended["tables"], ended["other_statements"]) == (None, None)


def test_a_flow_with_a_timeout_shows_the_same(rehearse: Rehearse) -> None:
    ended = rehearse("with a timeout", status="success")

    assert rows_of(ended) == {"inserted": 6, "updated": 3, "deleted": 2}
    assert (ended["result"]["rows"], "at work on" in ended["log"]) == (6, True)


@pytest.mark.usefixtures("stored")
def test_window_and_values_of_the_configuration_can_be_given(
    rehearse: Rehearse, dbsession: Session
) -> None:
    flow = dbsession.scalars(select(DataFlow)).one()
    flow.timezone, flow.configuration, flow.enabled = "Europe/Berlin", {"kept": 1}, False
    dbsession.commit()
    window = "2026-01-01/2026-01-02T00:00:00+00:00"

    ended = rehearse("work", "--window", window, "--set", "limit=3", status="success")

    times = ["2025-12-31T23:00:00+00:00", "2026-01-02T00:00:00+00:00"]
    assert ended["result"]["window"] == times
    assert "at work on {'kept': 1, 'limit': 3}" in ended["log"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nope"], 1, "Error: no flow is called 'nope': `heartbeat flows` lists them"),
        (["work", "--window", "today"], 2, "'today' is not FROM/TO in ISO 8601: valid is"),
        (["work", "--window", "0001-01-01/2026-01-02"], 2, "is not FROM/TO in ISO 8601"),
        (["work", "--window", "2026-01-01/9999-12-31T23:59-23:00"], 2, "is not FROM/TO"),
        (["work", "--window", "2026-01-02/2026-01-01"], 1, "--window: must end after its start"),
        (["work", "--set", "limit"], 2, "'limit' is not KEY=VALUE"),
        (["work", "--set", "limit=NaN"], 1, "--set: ['limit'] is not a number"),
    ],
)
def test_wrong_input_is_one_line(
    heartbeat: Printed, arguments: list[str], code: int, message: str
) -> None:
    done = heartbeat("rehearse", *arguments)

    assert (done.code, done.output) == (code, "")
    assert message in done.errors.splitlines()[-1]
    assert "Traceback" not in done.errors


def test_a_database_that_does_not_exist_is_not_created(
    heartbeat: Printed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "missing.sqlite"
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{missing}")

    done = heartbeat("rehearse", "work")

    assert (done.code, done.output) == (1, "")
    assert "cannot be reached (there is no such file)" in done.errors
    assert not missing.exists()


def test_a_configuration_that_does_not_fit_fails_as_a_run_does(rehearse: Rehearse) -> None:
    assert rehearse("limited", "--set", "limit=3", status="success")["result"] == 3
    ended = rehearse("limited", "--set", "limit=many", status="failed")
    assert ended["error"].startswith("ConfigurationError: the flow's configuration does not fit")


@pytest.mark.usefixtures("stored")
def test_it_waits_a_limited_time_for_what_a_run_holds(heartbeat: Printed, engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("UPDATE notes_of_tests SET size = 9 WHERE name = 'note 1'"))
        held = "INSERT INTO notes_of_tests (name, mark, size) VALUES ('held', 'text', 1)"
        connection.execute(text(held))
        done = heartbeat("rehearse", "work", "--json")
        connection.rollback()

    ended = json.loads(done.output)
    assert (done.code, ended["status"]) == (1, "failed")
    assert "lock" in ended["error"].lower()
