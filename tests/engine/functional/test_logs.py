"""Log lines: their levels, the beat, the flow and the run of each, and errors in short."""

import contextvars
import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import insert
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.errors import DatabaseNotReadyError
from data_flows.heartbeat.json_lines import JsonFormatter
from data_flows.heartbeat.log_context import ContextFilter

from ..conftest import DATABASE, FakeClock, MakeApp, heartbeat_of
from ..notes import Note
from .conftest import settle
from .operated import SECRET, as_operator

Post = Callable[..., Any]
Lines = Callable[[], list[dict[str, Any]]]
FORMAT = "%(asctime)s %(levelname)s %(name)s %(threadName)s %(message)s"

HAS_BEAT = pytest.mark.local_executor("a worker of Celery does not know the beat of a run")

log = logging.getLogger("birds.flows")


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Log as production.ini configures it; return what has been written so far."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter(FORMAT))
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(level)


def events(lines: Lines, event: str) -> list[dict[str, Any]]:
    """Return the lines of a kind of event."""
    return [line for line in lines() if line.get("event") == event]


def raise_away(*_ignored: object) -> None:
    """Fail as a connection does."""
    message = "the server is away"
    raise DatabaseNotReadyError(message)


def owls(run: Run) -> None:
    """Log as code does that knows nothing of the run."""
    log.info("hoo %d", run.id)


def larks(run: Run) -> None:
    """Log by both ways."""
    log.info("tirra %d", run.id)
    run.log.info("lirra %d", run.id)


@HAS_BEAT
def test_each_line_of_a_flow_has_its_beat_its_flow_and_its_run(
    make_app: MakeApp, post: Post, lines: Lines
) -> None:
    app = make_app(owls, larks, **{"heartbeat.workers": "1"})  # one thread for both

    post(app)
    log.info("after the beat")

    own = {line["message"]: line for line in lines() if not line.get("event")}
    ids = {line["flow"]: line["run_id"] for line in events(lines, "run")}
    [beat] = events(lines, "beat")
    said = [("owls", "hoo"), ("larks", "tirra"), ("larks", "lirra")]
    for flow, word in said:
        line = own[f"{word} {ids[flow]}"]
        assert (line["flow"], line["run_id"]) == (flow, ids[flow])
        assert line["beat_id"] == beat["beat_id"]
    assert {"flow", "run_id", "beat_id"}.isdisjoint(own["after the beat"])


def test_a_run_has_one_line_with_what_happened(
    make_app: MakeApp, post: Post, lines: Lines, clock: FakeClock
) -> None:
    def slow(_run: Run) -> None:
        clock.advance(1.5)

    app = make_app(slow)
    reply = post(app).json
    idle = post(app).json

    [run] = events(lines, "run")
    assert run["levelname"] == "INFO"
    assert run["message"] == f"slow succeeded in 1.500 s: run {run['run_id']}"
    assert (run["status"], run["trigger"], run["attempt"]) == ("success", "schedule", 1)
    assert (run["slot"], run["duration"]) == ("2026-03-01T12:00:00+00:00", 1.5)
    busy, nothing = events(lines, "beat")
    for beat, answer in ((busy, reply), (nothing, idle)):
        assert beat["levelname"] == "INFO"
        assert {name: beat[name] for name in answer if name != "timestamp"} == {
            name: value for name, value in answer.items() if name != "timestamp"
        }
    assert nothing["message"].endswith(": nothing due (0.000 s)")


def test_a_failure_that_is_retried_is_a_warning_and_the_last_one_an_error(
    make_app: MakeApp, post: Post, lines: Lines, clock: FakeClock
) -> None:
    def fail(_run: Run) -> None:
        message = "two\nlines \x1b[2J of https://joe:hunter22@example.org"
        raise LookupError(message)

    app = make_app((fail, {"retries": 1, "retry_delay": "1m", "pause_after": 2}))
    post(app)
    clock.advance(60)
    post(app)

    first, last = events(lines, "run")
    assert [first["levelname"], last["levelname"]] == ["WARNING", "ERROR"]
    assert first["error"] == "two lines \\x1b[2J of https://***@example.org"
    assert first["message"].endswith("; retried at 2026-03-01T12:01:00+00:00")
    assert first["retry_at"] == "2026-03-01T12:01:00+00:00"
    assert "retry_at" not in last
    assert (last["attempt"], last["trigger"]) == (2, "retry")
    assert last["message"].endswith(f"; `heartbeat runs {last['run_id']}` shows more")
    [disabled] = events(lines, "flow_disabled")
    assert (disabled["levelname"], disabled["flow"]) == ("ERROR", "fail")


def test_the_error_of_a_database_is_one_short_line_without_its_statement(
    make_app: MakeApp, post: Post, lines: Lines, notes: None
) -> None:
    del notes

    def store(run: Run) -> None:
        for _ in range(2):
            values = {"id": 1, "name": "sesame" * 10, "mark": "a mark", "size": 1}
            run.session.execute(insert(Note).values(values))

    post(make_app(store))

    [run] = events(lines, "run")
    assert run["error_type"] == "IntegrityError"
    words = {"sqlite": "UNIQUE", "postgresql": "duplicate key", "mysql": "Duplicate entry"}
    assert words[DATABASE] in run["error"]
    assert len(run["error"]) <= 300
    for hidden in ("INSERT", "sesame", "Background", "sqlalche.me", "parameters", "survive"):
        assert hidden not in run["message"] + run["error"]


def test_beats_that_nobody_waits_for_log_a_database_that_is_away_in_one_short_line(
    make_app: MakeApp, post: Post, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(**{"heartbeat.wait": "0s"})
    monkeypatch.setattr(heartbeat_of(app).engine, "connect", raise_away)

    for _ in range(3):
        post(app, status=503)

    [broken] = [line for line in lines() if line["message"].startswith("a beat broke off")]
    assert broken["levelname"] == "ERROR"
    assert broken["message"] == "a beat broke off: DatabaseNotReadyError: the server is away"


def test_a_beat_that_breaks_off_after_an_early_answer_is_logged(
    make_app: MakeApp, post: Post, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_and_fail(_run: Run) -> None:
        monkeypatch.setattr(heartbeat_of(app), "session", raise_away)
        raise_away()

    app = make_app(break_and_fail)

    post(app, status=202, Prefer="respond-async")
    settle()

    [broken] = [line for line in lines() if line["message"].startswith("a beat broke off")]
    assert broken["message"] == "a beat broke off: DatabaseNotReadyError: the server is away"


def test_the_line_of_a_run_that_is_run_now_has_no_beat(
    make_app: MakeApp, lines: Lines, post: Post
) -> None:
    app = make_app((owls, {"start": "next"}), **SECRET)
    post(app)

    call = as_operator(app)
    run_id = call("POST", "/flows/owls/runs", status=202).json["id"]
    heartbeat_of(app).executor.wait_until_idle(30)

    [own] = [line for line in lines() if line["message"] == f"hoo {run_id}"]
    assert (own["flow"], own["run_id"]) == ("owls", run_id)
    assert "beat_id" not in own


def test_a_thread_of_a_flow_has_its_run_in_a_copied_context(
    make_app: MakeApp, post: Post, lines: Lines
) -> None:
    def parallel(_run: Run) -> None:
        within = contextvars.copy_context().run
        thread = threading.Thread(target=within, args=(log.info, "from a thread"))
        thread.start()
        thread.join()

    post(make_app(parallel))

    [own] = [line for line in lines() if line["message"] == "from a thread"]
    assert (own["flow"], own["run_id"]) == ("parallel", events(lines, "run")[0]["run_id"])


def test_the_line_of_a_condition_has_its_flow(make_app: MakeApp, post: Post, lines: Lines) -> None:
    def ready(_run: Run) -> bool:
        log.info("not yet")
        return False

    post(make_app((owls, {"when": ready})))

    [own] = [line for line in lines() if line["message"] == "not yet"]
    assert own["flow"] == "owls"
    assert "run_id" not in own


class _Broken(logging.Handler):
    def emit(self, _record: logging.LogRecord) -> None:
        message = "the log is full"
        raise OSError(message)


def test_a_handler_that_raises_stops_no_beat(
    make_app: MakeApp, post: Post, capsys: pytest.CaptureFixture[str]
) -> None:
    engine_log, broken = logging.getLogger("data_flows.heartbeat.log_lines"), _Broken()
    app = make_app((lambda _run: None, {"name": "quiet"}))
    post(app)
    engine_log.addHandler(broken)
    engine_log.setLevel(logging.INFO)
    try:
        heartbeat_of(app).clock.sleep(300)
        reply = post(app).json
    finally:
        engine_log.removeHandler(broken)
        engine_log.setLevel(logging.NOTSET)

    assert reply["flows_succeeded"] == 1
    assert "quiet succeeded in 0.000 s: run " in capsys.readouterr().err


@HAS_BEAT
def test_the_format_of_a_host_may_name_the_context(make_app: MakeApp, post: Post) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(flow)s|%(run_id)s|%(beat_id)s|%(message)s"))
    handler.addFilter(ContextFilter())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        post(make_app(owls))
        log.info("elsewhere")
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)

    own, other = written.getvalue().splitlines()
    flow, run_id, beat_id, message = own.split("|")
    assert (flow, message) == ("owls", f"hoo {run_id}")
    assert beat_id.isdigit()
    assert other == "None|None|None|elsewhere"


def test_a_new_schedule_is_logged(make_app: MakeApp, post: Post, lines: Lines) -> None:
    post(make_app((owls, {"every": "5m"})))
    post(make_app((owls, {"every": "7m"})))

    registered, adopted = [line for line in lines() if "register" in line["name"]]
    assert registered["message"] == "flow owls is registered: every 5m"
    assert adopted["message"].endswith(
        "has adopted the schedule that the code now declares: every 7m"
    )
    assert registered["flow"] == adopted["flow"] == "owls"


def test_the_first_beat_logs_the_start_once_where_another_server_serves(
    make_app: MakeApp, post: Post, lines: Lines
) -> None:
    app: TestApp = make_app(owls)

    post(app)
    post(app)

    [start] = events(lines, "start")
    assert (start["flows"], start["workers"], start["path"]) == (1, 4, "/heartbeat")
    password = heartbeat_of(app).engine.url.password
    assert not password or str(password) not in start["database"].partition("@")[0].split(":")[2:]
