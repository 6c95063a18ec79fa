"""A flow with a `timeout` runs in a process of its own, which is ended when time is up."""

import functools
import json
import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pyramid.config import Configurator
from sqlalchemy import Engine, column, func, insert, make_url, select, table, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from data_flows.heartbeat.clock import Clock
from data_flows.heartbeat.db import Limits, make_engine
from data_flows.heartbeat.errors import DeclarationError
from data_flows.heartbeat.log_context import ContextFilter
from data_flows.heartbeat.models import DataFlow, DataFlowRun
from data_flows.heartbeat.optional.timeouts import MAX_LINE

from ..conftest import TOKEN, MakeApp, heartbeat_of
from ..entrances import PLACE, both_entrances
from ..notes import Note
from . import apart
from .conftest import DATABASE, SECONDS, Serve, wait_until

SHORT = "10s"  # an interpreter must have started by then, on a busy machine too
LONG = "10m"
NO_WAIT = {"heartbeat.wait": "0s"}

Handler = Callable[..., Any]
Start = Callable[..., Any]


@pytest.fixture
def shared(notes: None, dbsession: Session) -> None:
    """Write the row that all flows change."""
    del notes  # its table must be there
    dbsession.execute(insert(Note).values(name="shared", mark="shared", size=1))
    dbsession.commit()


@pytest.fixture
def start(make_app: MakeApp, tmp_path: Path, shared: None) -> Start:
    """Make an application with flows of `apart`, in real time."""
    del shared  # it must be there

    def turn(config: Configurator) -> None:
        config.registry["heartbeat"].clock = Clock()

    def make(*functions: Handler, timeout: str = LONG, **options: Any) -> Any:
        options = {"configuration": {"folder": str(tmp_path)}, "timeout": timeout, **options}
        flows = [
            (function, {"name": f"{function.__name__} {number}", **options})
            for number, function in enumerate(functions)
        ]
        return make_app(*flows, configure=turn, **{"heartbeat.wait": "10m"})

    return make


@pytest.fixture
def run(
    start: Start, post: Callable[..., Any], dbsession: Session
) -> Callable[..., list[DataFlowRun]]:
    """Run flows by one beat; return the rows of their runs, by id."""

    def beat(*functions: Handler, **options: Any) -> list[DataFlowRun]:
        app = start(*functions, **options)

        reply = post(app).json

        runs = list(dbsession.scalars(select(DataFlowRun).order_by(DataFlowRun.id)))
        counted = (reply["flows_succeeded"], reply["flows_failed"])
        statuses = [run.status for run in runs]
        assert counted == (statuses.count("success"), statuses.count("failed"))
        dbsession.commit()
        return runs

    return beat


@pytest.fixture
def elsewhere(database_url: str) -> Iterator[Engine]:
    """Connect as another process would that does not wait for a lock."""
    engine = make_engine(make_url(database_url), limits=Limits(write_lock=0))
    yield engine
    engine.dispose()


def written(dbsession: Session) -> list[str]:
    """Return the writers of the committed rows."""
    dbsession.rollback()
    found = list(dbsession.scalars(select(Note.mark).order_by(Note.id)))
    dbsession.rollback()  # the table is dropped before the session ends
    return found


def is_locked(engine: Engine) -> bool:
    """Return whether the row that all flows change is locked."""
    row = select(Note.id).where(Note.mark == "shared").with_for_update(nowait=True)
    try:
        with engine.begin() as connection:
            connection.execute(row)
            connection.execute(update(Note).where(Note.mark == "shared").values(size=3))
    except OperationalError:
        return True
    return False


def statements(engine: Engine) -> int:
    """Return how many statements of `waits_for_the_server` the server executes at this moment."""
    if DATABASE == "postgresql":
        sessions = table("pg_stat_activity", column("datname"), column("query"))
        here, statement = func.current_database(), "SELECT pg_sleep(%"
    else:
        sessions = table("processlist", column("db"), column("info"), schema="information_schema")
        here, statement = func.database(), "SELECT sleep(%"
    database, text = sessions.c
    count = select(func.count()).where(database == here, text.like(statement))
    with engine.connect() as connection:
        return connection.execute(count).scalar_one()


def is_alive(process: int) -> bool:
    """Return whether a process has not ended; a zombie has."""
    status = Path(f"/proc/{process}/stat")
    try:
        os.kill(process, 0)
        return status.read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # gone meanwhile, or a system without /proc
        return not Path("/proc").exists()


def process_of(folder: Path, name: str) -> int:
    """Wait until a flow has written the id of a process; return it."""
    wait_until((folder / name).exists, f"no flow has written its {name}")
    return int((folder / name).read_text())


# ---------------------------------------------------------------------------------------------
# What ends in time


@pytest.mark.parametrize("executable", ["/usr/sbin/uwsgi", "/nowhere/python3", "", None])
def test_the_interpreter_is_found_where_the_executable_is_a_server(
    run: Callable[..., list[DataFlowRun]], monkeypatch: pytest.MonkeyPatch, executable: str | None
) -> None:
    monkeypatch.setattr(sys, "executable", executable)

    [done] = run(apart.ends)

    assert (done.status, done.error_message) == ("success", None)


def test_an_interpreter_that_cannot_be_found_is_named(
    run: Callable[..., list[DataFlowRun]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("prefix", "exec_prefix", "base_prefix", "base_exec_prefix"):
        monkeypatch.setattr(sys, name, "/nowhere")
    monkeypatch.setattr(sys, "executable", "/usr/sbin/uwsgi")

    [failed] = run(apart.ends)

    assert re.fullmatch(r"there is no python3\.\d+ below /nowhere", failed.error_message or "")


def test_a_flow_that_ends_in_time_commits_its_writes_with_its_success(
    run: Callable[..., list[DataFlowRun]],
    dbsession: Session,
    capfd: pytest.CaptureFixture[str],
) -> None:
    [row] = run(apart.ends)

    assert (row.status, row.error_type) == ("success", None)
    assert written(dbsession) == ["shared", "ends 0 1"]
    assert row.result is not None
    assert row.result["process"] != os.getpid()
    assert not is_alive(row.result["process"])
    assert row.log is not None
    assert row.log.endswith("INFO logged by the run")
    assert row.duration is not None
    assert row.duration > 0
    flow = dbsession.scalars(select(DataFlow)).one()
    assert (flow.last_run_status, flow.last_success_at) == ("success", row.ended_at)
    assert flow.window_starts_at == row.window_end
    assert "printed\n" in capfd.readouterr().err


def test_a_flow_that_returns_in_time_succeeds_however_long_others_hold_its_row(
    start: Start,
    post: Callable[..., Any],
    elsewhere: Engine,
    tmp_path: Path,
    dbsession: Session,
) -> None:
    app = start(apart.returns_when_locked, timeout=SHORT)
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(post, app)
        wait_until((tmp_path / "inside").exists, "the flow has not begun")
        with elsewhere.begin() as connection:
            connection.execute(update(DataFlow).values(description="locked"))
            (tmp_path / "locked").touch()
            threading.Event().wait(11)  # longer than its timeout
        assert reply.result().json["flows_succeeded"] == 1

    assert dbsession.scalars(select(DataFlowRun.status)).all() == ["success"]


def test_a_flow_without_a_timeout_stays_in_this_process(
    run: Callable[..., list[DataFlowRun]],
) -> None:
    [row] = run(apart.ends, timeout=None)

    assert row.result == {"process": os.getpid()}


def test_its_condition_need_not_be_found_by_name(run: Callable[..., list[DataFlowRun]]) -> None:
    [row] = run(apart.ends, when=lambda _run: True)

    assert row.status == "success"


@pytest.mark.slow
def test_a_flow_that_raises_fails_with_its_own_error_and_without_secrets(
    run: Callable[..., list[DataFlowRun]], dbsession: Session
) -> None:
    [row] = run(apart.raises, configuration={"secret": TOKEN})

    assert (row.status, row.error_type) == ("failed", "LookupError")
    assert row.error_message == "no such bird: ***"
    assert "apart.py" in (row.error_backtrace or "")
    assert TOKEN not in (row.error_backtrace or "")
    assert written(dbsession) == ["shared"]


@pytest.mark.slow
def test_a_flow_that_swallows_a_database_error_fails_with_it(
    run: Callable[..., list[DataFlowRun]], dbsession: Session
) -> None:
    [row] = run(apart.swallows)

    assert (row.status, row.error_type) == ("failed", "IntegrityError")
    assert "begin_nested()" in (row.error_message or "")
    assert written(dbsession) == ["shared"]


@pytest.mark.slow
def test_a_flow_has_succeeded_although_its_process_does_not_exit(
    run: Callable[..., list[DataFlowRun]], dbsession: Session
) -> None:
    [row] = run(apart.leaves_a_thread, timeout="1h")

    assert (row.status, row.error_type) == ("success", None)
    assert written(dbsession) == ["shared", "leaves_a_thread 0 1"]


@pytest.mark.slow
def test_several_run_at_once(run: Callable[..., list[DataFlowRun]]) -> None:
    rows = run(*[apart.meets] * apart.TOGETHER)

    assert [row.status for row in rows] == ["success"] * apart.TOGETHER


@pytest.mark.slow
def test_what_is_logged_goes_where_the_server_logs(
    run: Callable[..., list[DataFlowRun]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger=apart.__name__)

    run(apart.ends)

    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert ("INFO", "logged by the run") in lines
    assert ("DEBUG", "logged by the module: ends 0") in lines


@pytest.mark.slow
def test_the_lines_of_a_child_are_written_once_with_their_beat_flow_and_run(
    run: Callable[..., list[DataFlowRun]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="data_flows.heartbeat")
    context = ContextFilter()
    caplog.handler.addFilter(context)

    [row] = run(apart.ends)

    caplog.handler.removeFilter(context)
    records = {record.getMessage(): record for record in caplog.records}
    assert len(records) == len(caplog.records)
    [ended] = [record for record in caplog.records if vars(record).get("event") == "run"]
    for record in (records["logged by the run"], ended):
        members = vars(record)
        assert (members["flow"], members["run_id"]) == ("ends 0", row.id)
        assert members["beat_id"] is not None


@pytest.mark.slow
def test_any_error_and_any_log_line_reach_the_history(
    run: Callable[..., list[DataFlowRun]], caplog: pytest.LogCaptureFixture
) -> None:
    rows = run(apart.raises_oddly, apart.logs_oddly)

    raised, logged = sorted(rows, key=lambda row: row.status)
    assert (raised.status, raised.error_type, raised.error_message) == ("failed", "Odd", "said")
    assert "Traceback" in (raised.error_backtrace or "")
    assert (logged.status, logged.error_message) == ("success", None)
    lines = (logged.log or "").splitlines()
    assert [line.split()[-1] for line in lines if " INFO " in line] == ["before", "member", "after"]
    assert "(a line that could not be formatted)" in caplog.messages
    # As long as a child sends it at most.
    assert max(map(len, caplog.messages)) <= MAX_LINE


@pytest.mark.slow
def test_what_the_server_does_not_log_is_not_logged(
    run: Callable[..., list[DataFlowRun]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=apart.__name__)

    run(apart.ends)

    assert "logged by the module" not in caplog.text


@pytest.mark.slow
def test_a_process_gets_no_secret_and_no_socket_from_the_one_that_starts_it(
    run: Callable[..., list[DataFlowRun]], monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("TEST_DATABASE_URL", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.set_inheritable(True)
        [row] = run(
            apart.looks_around, configuration={"socket": os.fstat(listening.fileno()).st_ino}
        )

    assert (row.status, row.error_message) == ("success", None)
    assert row.result is not None
    assert row.result["socket"] is False
    assert row.result["main"] is None
    assert row.result["input"] == ""
    words = json.dumps(row.result["words"])
    assert "looks_around 0" in words
    assert TOKEN not in words
    assert database_url not in words


# ---------------------------------------------------------------------------------------------
# What does not end


def test_a_flow_that_never_ends_is_ended_with_all_that_it_holds(
    start: Start,
    post: Callable[..., Any],
    dbsession: Session,
    elsewhere: Engine,
    tmp_path: Path,
) -> None:
    app = start(apart.sleeps, timeout=SHORT)
    replies: list[Any] = []
    beat = threading.Thread(target=lambda: replies.append(post(app).json))

    beat.start()
    processes = [process_of(tmp_path, name) for name in ("process", "grandchild")]
    assert is_locked(elsewhere)
    assert all(map(is_alive, processes))
    beat.join(SECONDS)

    assert replies[0]["flows_failed"] == 1
    assert not any(map(is_alive, processes))
    wait_until(lambda: not is_locked(elsewhere), "the row stays locked")
    assert written(dbsession) == ["shared"]
    row = dbsession.scalars(select(DataFlowRun)).one()
    assert (row.status, row.error_type) == ("failed", "FlowTimeout")
    assert row.error_message == "ran longer than its timeout of 10s"
    assert row.duration is not None
    assert row.duration >= 10
    assert "about to sleep" in (row.log or "")
    assert row.data_flow.last_run_status == "failed"
    assert row.data_flow.window_starts_at == row.window_start


@pytest.mark.slow
def test_a_flow_that_waits_for_the_database_server_is_ended_there_too(
    start: Start, post: Callable[..., Any], dbsession: Session, elsewhere: Engine
) -> None:
    if DATABASE == "sqlite":
        return  # there is no server
    app = start(apart.waits_for_the_server, timeout=SHORT)
    beat = threading.Thread(target=lambda: post(app))

    beat.start()
    wait_until(lambda: statements(elsewhere) == 1, "the statement never began")
    beat.join(SECONDS)

    wait_until(lambda: statements(elsewhere) == 0, "the statement goes on")
    assert not is_locked(elsewhere)
    row = dbsession.scalars(select(DataFlowRun)).one()
    assert (row.status, row.error_type) == ("failed", "FlowTimeout")
    assert written(dbsession) == ["shared"]


@pytest.mark.slow
def test_a_flow_that_listens_to_no_signal_is_ended_with_what_it_started(
    run: Callable[..., list[DataFlowRun]], tmp_path: Path
) -> None:
    [row] = run(apart.is_stubborn, timeout=SHORT)

    assert row.error_type == "FlowTimeout"
    assert not is_alive(process_of(tmp_path, "process"))
    assert not is_alive(process_of(tmp_path, "grandchild"))


@pytest.mark.slow
def test_a_flow_that_holds_the_interpreter_is_ended(
    run: Callable[..., list[DataFlowRun]], tmp_path: Path
) -> None:
    [row] = run(apart.holds_the_interpreter, timeout=SHORT)

    assert row.error_type == "FlowTimeout"
    assert not is_alive(process_of(tmp_path, "process"))


@pytest.mark.slow
def test_a_server_that_exits_takes_its_children_along_and_leaves_their_runs_to_be_recorded(
    start: Start, post: Callable[..., Any], dbsession: Session, tmp_path: Path
) -> None:
    app = start(apart.sleeps)
    beat = threading.Thread(target=lambda: post(app))
    beat.start()
    processes = [process_of(tmp_path, name) for name in ("process", "grandchild")]

    for end in heartbeat_of(app).at_exit:
        end()
    beat.join(SECONDS)

    assert not any(map(is_alive, processes))
    assert dbsession.scalars(select(DataFlowRun.status)).all() == ["in_progress"]
    assert written(dbsession) == ["shared"]


@pytest.mark.slow
def test_what_a_server_has_started_ends_when_the_server_is_killed(
    serve: Serve, dbsession: Session, shared: None, elsewhere: Engine, folder: Path
) -> None:
    del shared  # the row must be there
    [server] = serve(f"{apart.__name__}:served", NO_WAIT)
    assert server.beat()["status"] == 202
    processes = [process_of(folder, name) for name in ("process", "grandchild")]
    assert is_locked(elsewhere)

    server.kill()

    wait_until(lambda: not any(map(is_alive, processes)), "a process lives on")
    wait_until(lambda: not is_locked(elsewhere), "the row stays locked")
    assert written(dbsession) == ["shared"]


@pytest.mark.slow
def test_a_process_that_cannot_notice_its_servers_end_ends_soon_after_its_time(
    serve: Serve, folder: Path
) -> None:
    [server] = serve(f"{apart.__name__}:served_for_long", NO_WAIT)
    assert server.beat()["status"] == 202
    process = process_of(folder, "process")

    server.kill()

    wait_until(lambda: not is_alive(process), "the process lives on")
    assert "Timeout" in server.log()


# ---------------------------------------------------------------------------------------------
# What dies


@pytest.mark.parametrize(
    ("function", "how"),
    [(apart.exits, "with exit code 3"), (apart.crashes, "by signal 9")],
)
def test_a_process_that_dies_fails_its_run_with_the_reason(
    run: Callable[..., list[DataFlowRun]], dbsession: Session, function: Handler, how: str
) -> None:
    [row] = run(function)

    assert (row.status, row.error_type) == ("failed", "FlowProcessDied")
    assert how in (row.error_message or "")
    assert written(dbsession) == ["shared"]
    assert row.duration is not None


@pytest.mark.slow
def test_a_run_that_was_lost_with_its_process_is_due_again_where_its_flow_declares_it(
    run: Callable[..., list[DataFlowRun]], dbsession: Session
) -> None:
    lost, again = run(apart.exits, on_lost="retry")

    assert (lost.status, lost.error_type, lost.attempt) == ("failed", "FlowProcessDied", 1)
    assert "about to exit" in (lost.log or "")
    assert (again.status, again.trigger, again.attempt) == ("success", "retry", 2)
    assert again.scheduled_for == lost.scheduled_for
    assert written(dbsession) == ["shared", "exits 0 2"]


@pytest.mark.slow
def test_a_process_that_dies_is_noticed_although_a_copy_of_it_lives(
    run: Callable[..., list[DataFlowRun]], tmp_path: Path
) -> None:
    [row] = run(apart.leaves_a_fork)

    assert row.error_type == "FlowProcessDied"
    assert not is_alive(process_of(tmp_path, "grandchild"))


@pytest.mark.slow
def test_a_process_that_dies_when_it_has_committed_has_succeeded(
    run: Callable[..., list[DataFlowRun]], dbsession: Session
) -> None:
    [row] = run(apart.dies_after_commit, on_lost="retry")

    assert (row.status, row.error_type) == ("success", None)
    assert written(dbsession) == ["shared", "dies_after_commit 0 1"]


# ---------------------------------------------------------------------------------------------
# What is refused


def inside() -> Handler:
    """Make a function that cannot be imported by its name."""

    def flow(_run: object) -> None:
        """Be a flow."""

    return flow


def not_itself(function: Handler) -> Handler:
    """Decorate without a trace of the function."""

    @functools.wraps(function)
    def decorated(run: object) -> object:
        return function(run)

    return decorated


@both_entrances
@pytest.mark.parametrize(
    "function",
    [lambda _run: None, inside(), not_itself(apart.ends), functools.partial(apart.ends)],
    ids=["lambda", "inside another", "hidden by its name", "partial"],
)
def test_a_function_that_its_process_could_not_find_is_refused_at_start(
    make_app: MakeApp, function: Handler
) -> None:
    with pytest.raises(DeclarationError) as caught:
        make_app((function, {"name": "hidden", "timeout": "10m"}))

    assert re.search(PLACE, str(caught.value))
    assert "'hidden'" in str(caught.value)
    assert "timeout is '10m'" in str(caught.value)
    assert "top level of a module" in str(caught.value)
    make_app((function, {"name": "hidden"}))


@both_entrances
@pytest.mark.parametrize("timeout", [0, "", "5 minutes", -1, 1.5, True])
def test_an_invalid_timeout_is_refused(make_app: MakeApp, timeout: object) -> None:
    with pytest.raises(DeclarationError, match=r"timeout is .*for example, timeout="):
        make_app((apart.ends, {"timeout": timeout}))
