"""`GET /runs` and `GET /beats`: pages, filters, parameters, and rows that cannot be read."""

import json
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from ..conftest import DATABASE, TOKEN, FakeClock, MakeApp, heartbeat_of
from ..factories import NOON, data_flow, data_flow_beat, data_flow_run
from .broken import NO_TIME
from .conftest import Command
from .operated import AS_OPERATOR, SECRET, Call, as_operator

ENDED = {"started_at": NOON, "ended_at": NOON}
OWL = "Käuzchen 🦉"
WORKER = "host:1:2026-03-01T12:00:00+00:00"


@pytest.fixture
def call(make_app: MakeApp) -> Call:
    """Call a resource of an application without flows of its own as the operator."""
    return as_operator(make_app(**SECRET))


@pytest.fixture
def runs(dbsession: Session) -> list[int]:
    """Store seven runs of two flows, the third and the last one failed; return their ids."""
    flows = [data_flow(name="orders"), data_flow(name=OWL)]
    stored = []
    for number in range(7):
        status = "failed" if number in {2, 6} else "success"
        columns = {"data_flow": flows[number % 2], "status": status, "worker": WORKER, **ENDED}
        stored.append(data_flow_run(**columns))
        dbsession.add(stored[-1])
        dbsession.flush()
    dbsession.commit()
    return [run.id for run in stored]


def pages(call: Call, path: str, member: str) -> Iterator[list[dict[str, Any]]]:
    """Yield the pages of a list, each by the link of the one before."""
    for _page in range(100):
        reply = call("GET", path, status=200)
        yield reply.json[member]
        target, _, relation = reply.headers.get("Link", "").partition("; ")
        assert relation in {"", 'rel="next"'}
        if not target:
            return
        path = target.strip("<>").removeprefix("/heartbeat")
    pytest.fail("the pages never end")


# ---------------------------------------------------------------------------------------------
# Pages and filters


@pytest.mark.parametrize("limit", [1, 3, 7, 50])
def test_pages_of_runs_have_each_run_once_newest_first(
    call: Call, runs: list[int], limit: int
) -> None:
    found = [*pages(call, f"/runs?limit={limit}", "runs")]

    assert [run["id"] for page in found for run in page] == runs[::-1]
    assert {len(page) for page in found[:-1]} <= {limit}
    assert found[-1]


def test_runs_that_are_added_meanwhile_move_no_page(
    call: Call, runs: list[int], dbsession: Session
) -> None:
    found: list[int] = []
    for page in pages(call, "/runs?limit=2", "runs"):
        found += [run["id"] for run in page]
        flow = data_flow(name=f"new{len(found)}")
        dbsession.add(data_flow_run(data_flow=flow, status="success", **ENDED))
        dbsession.commit()

    assert found == runs[::-1]


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("flow=orders", [6, 4, 2, 0]),
        (f"flow={quote(OWL)}", [5, 3, 1]),
        ("status=failed", [6, 2]),
        ("status=failed&flow=orders", [6, 2]),
        (f"status=failed&flow={quote(OWL)}", []),
        ("status=in_progress", []),
        ("flow=&status=", [6, 5, 4, 3, 2, 1, 0]),
    ],
)
def test_runs_can_be_filtered(call: Call, runs: list[int], query: str, numbers: list[int]) -> None:
    wanted = [runs[number] for number in numbers]

    whole = call("GET", f"/runs?{query}", status=200).json["runs"]
    paged = [run["id"] for page in pages(call, f"/runs?{query}&limit=1", "runs") for run in page]
    older = call("GET", f"/runs?{query}&before={runs[3]}", status=200).json["runs"]

    assert [run["id"] for run in whole] == wanted
    assert paged == wanted
    assert [run["id"] for run in older] == [each for each in wanted if each < runs[3]]


def test_a_run_has_the_same_members_everywhere(
    call: Call, command: Command, runs: list[int]
) -> None:
    listed = call("GET", "/runs", status=200).json["runs"]

    assert call("GET", f"/runs/{runs[-1]}", status=200).json == listed[0]
    assert json.loads(command("runs", "--json").stdout) == listed
    assert listed[0]["worker"] == WORKER
    paged = command("runs", "--json", "--before", str(runs[3]), "--limit", "2")
    assert json.loads(paged.stdout) == listed[4:6]


def test_pages_of_beats_have_each_beat_once_newest_first(call: Call, dbsession: Session) -> None:
    for number in range(5):
        beat = data_flow_beat(source=f"::1 clock {number}", flows_due=number, duration=0.5)
        dbsession.add(beat)
        dbsession.flush()
    dbsession.commit()

    found = [beat for page in pages(call, "/beats?limit=2", "beats") for beat in page]

    assert [beat["flows_due"] for beat in found] == [4, 3, 2, 1, 0]
    assert {*found[0]} == {
        *("id", "received_at", "source", "flows_due", "flows_triggered", "flows_succeeded"),
        *("flows_failed", "flows_in_progress", "runs_reaped", "duration"),
    }
    assert (found[0]["received_at"], found[0]["source"]) == (NOON.isoformat(), "::1 clock 4")


def test_a_page_is_a_few_statements_whatever_it_shows(
    make_app: MakeApp, runs: list[int], dbsession: Session
) -> None:
    app = make_app(**SECRET)
    dbsession.add_all([data_flow_beat(source=str(number)) for number in range(100)])
    dbsession.commit()
    call = as_operator(app)
    call("GET", "/runs", status=200)
    executed: list[str] = []
    event.listen(
        heartbeat_of(app).engine, "before_cursor_execute", lambda *args: executed.append(args[2])
    )

    call("GET", f"/runs?flow=orders&status=failed&before={runs[-1]}", status=200)
    call("GET", "/beats?limit=100", status=200)

    selects = [statement for statement in executed if statement.startswith("SELECT")]
    assert len(selects) <= 6
    assert "count(" not in " ".join(selects).lower()


# ---------------------------------------------------------------------------------------------
# Parameters


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=1e9", "limit"),
        ("limit=-1", "limit"),
        ("limit=1_0", "limit"),
        ("limit=%D9%A1", "limit"),
        (f"limit={'9' * 5000}", "limit"),
        ("before=0", "before"),
        ("before=9e99", "before"),
        ("before=9223372036854775808", "before"),
        ("before=1.0", "before"),
        ("limit=1&limit=2", "limit"),
        ("befor=1", "befor"),
        ("%F0%9F%A6%89=1", "🦉"),
    ],
)
@pytest.mark.parametrize("path", ["/runs", "/beats"])
def test_a_wrong_parameter_is_refused_by_name(
    call: Call, path: str, query: str, field: str
) -> None:
    problem = call("GET", f"{path}?{query}", status=422).json

    assert [*problem["errors"]] == [field]
    assert all(problem["errors"][field])


@pytest.mark.parametrize(
    ("query", "field"),
    [("status=lost", "status"), ("status=FAILED", "status"), ("flow=a%00b", "flow")],
)
def test_a_wrong_filter_is_refused_by_name(call: Call, query: str, field: str) -> None:
    assert [*call("GET", f"/runs?{query}", status=422).json["errors"]] == [field]


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("name", ["nope", "Orders", "🦜", "' OR 1", "x" * 5_000])
def test_runs_of_an_unknown_flow_are_not_found(call: Call, name: str) -> None:
    problem = call("GET", f"/runs?flow={quote(name)}", status=404).json

    assert "no flow is called" in problem["detail"]


@pytest.mark.parametrize("path", ["/runs", "/beats"])
def test_a_query_that_is_not_utf_8_is_malformed(call: Call, path: str) -> None:
    for query in ("flow=%ff", "%ff=1", "limit=%c3%28"):
        assert call("GET", f"{path}?{query}", status=400).json["detail"] == "the query is not UTF-8"


@pytest.mark.parametrize("path", ["/runs", "/beats"])
def test_the_lists_have_the_refusals_of_the_other_resources(
    call: Call, make_app: MakeApp, path: str
) -> None:
    for method in ("HEAD", "OPTIONS", "POST", "PUT", "DELETE"):
        assert call(method, path, status=405).headers["Allow"] == "GET"
    call("GET", path, status=406, Accept="application/xml")
    call("GET", path, status=406, Accept="application/json;q=0, */*;q=0")
    call("GET", path, status=200, Accept="\xff;;q=x, */*/*")  # invalid, so it is ignored
    app = make_app(**SECRET)
    app.get(f"/heartbeat{path}", status=401)
    app.get(f"/heartbeat{path}", headers={"X-Heartbeat-Token": TOKEN}, status=403)
    app.get(f"/heartbeat{path}?x={'y' * 9}", headers=AS_OPERATOR, status=422)


# ---------------------------------------------------------------------------------------------
# Rows that cannot be read


def test_rows_that_cannot_be_read_are_listed(
    call: Call, command: Command, runs: list[int], dbsession: Session
) -> None:
    dbsession.add(data_flow_beat())
    dbsession.flush()
    if DATABASE == "mysql":
        dbsession.execute(text("SET SESSION sql_mode = 'ALLOW_INVALID_DATES'"))
    for table, change in {
        "data_flow_runs": f"started_at = NULL, ended_at = {NO_TIME}",
        "data_flow_beats": f"received_at = {NO_TIME}",
    }.items():
        dbsession.execute(text(f"UPDATE {table} SET {change}"))  # noqa: S608 - our own words
    dbsession.commit()

    listed = call("GET", "/runs?limit=3", status=200).json["runs"]
    beats = call("GET", "/beats", status=200).json

    assert [(run["id"], run["ended_at"]) for run in listed] == [(x, None) for x in runs[:3:-1]]
    assert [beat["received_at"] for beat in beats["beats"]] == [None]
    assert beats["rhythms"] == []
    for arguments in (["runs"], ["beats"], ["beats", "--json"]):
        assert command(*arguments).exit_code == 0, arguments


# ---------------------------------------------------------------------------------------------
# The rhythm of the schedulers


def add_beats(dbsession: Session, source: str, gaps: list[float], until: float = 0.0) -> None:
    """Store beats with these gaps; the last one came `until` seconds before noon."""
    seconds = [sum(gaps[number:]) for number in range(len(gaps) + 1)]
    for before in seconds:
        received_at = NOON - timedelta(seconds=before + until)
        dbsession.add(data_flow_beat(source=source, received_at=received_at))
        dbsession.flush()
    dbsession.commit()


def rhythms_by_source(call: Call) -> dict[str | None, Any]:
    found = call("GET", "/beats", status=200).json["rhythms"]
    return {rhythm["source"]: rhythm for rhythm in found}


def test_the_rhythm_of_a_source_and_the_flows_that_it_cannot_serve(
    call: Call, dbsession: Session
) -> None:
    schedules: dict[str, dict[str, Any]] = {
        "minutely": {"run_interval": 60},
        "jittered": {"run_interval": 290},
        "cron": {"run_interval": None, "cron": "*/2 9-17 * * *"},
        "hourly": {"run_interval": 3_600},
        "nightly": {"run_interval": None, "cron": "0 3 * * *"},
        "paused": {"run_interval": 60, "enabled": False},
    }
    dbsession.add_all([data_flow(name=name, **each) for name, each in schedules.items()])
    add_beats(dbsession, "::1 clock", [300.0] * 38 + [100.0, 900.0])

    [rhythm] = call("GET", "/beats", status=200).json["rhythms"]

    assert (rhythm["source"], rhythm["beats"]) == ("::1 clock", 41)
    assert rhythm["last_beat_at"] == NOON.isoformat()
    gaps = (rhythm["median_gap"], rhythm["p95_gap"], rhythm["worst_gap"])
    assert gaps == (300.0, 300.0, 900.0)
    assert not rhythm["has_stopped"]
    assert (rhythm["missed_flows"], rhythm["missed_flow_names"]) == (2, ["minutely", "cron"])
    assert "too late for minutely, cron" in rhythm["verdict"]


def test_of_two_schedulers_the_one_that_has_stopped_is_named(
    call: Call, command: Command, dbsession: Session, clock: FakeClock
) -> None:
    add_beats(dbsession, "10.0.0.1 cron", [60.0] * 10, until=3_600)
    add_beats(dbsession, "10.0.0.2 cron", [60.0] * 100)

    found = rhythms_by_source(call)

    assert [(name, each["has_stopped"]) for name, each in found.items()] == [
        (None, False),
        ("10.0.0.2 cron", False),
        ("10.0.0.1 cron", True),
    ]
    stopped = found["10.0.0.1 cron"]["verdict"]
    assert stopped == "No beat of 10.0.0.1 cron for 60m: before, one came every 60s."
    printed = command("beats", "--limit", "2", flows="").output
    assert "No beat of 10.0.0.1 cron for" in printed
    assert "all together" in printed

    clock.advance(119)
    assert not rhythms_by_source(call)["10.0.0.2 cron"]["has_stopped"]
    clock.advance(2)
    assert rhythms_by_source(call)["10.0.0.2 cron"]["has_stopped"]


def test_two_schedulers_at_once_are_safe(call: Call, dbsession: Session) -> None:
    add_beats(dbsession, "10.0.0.1", [60.0] * 10, until=30)
    add_beats(dbsession, "10.0.0.2", [60.0] * 10)

    found = rhythms_by_source(call)

    assert found[None]["median_gap"] == 30
    assert "2 sources call, which is safe" in found[None]["verdict"]


@pytest.mark.parametrize("beats", [1, 5])
def test_a_few_beats_show_no_rhythm(call: Call, dbsession: Session, beats: int) -> None:
    add_beats(dbsession, "command line", [1.0] * (beats - 1), until=10**6)

    [rhythm] = call("GET", "/beats", status=200).json["rhythms"]

    assert (rhythm["beats"], rhythm["has_stopped"], rhythm["missed_flows"]) == (beats, False, 0)
    assert rhythm["verdict"] == "Too few beats of command line to know the rhythm."


def test_many_sources_and_flows_make_a_short_reply(call: Call, dbsession: Session) -> None:
    dbsession.add_all([data_flow(name=f"flow{number:03}", run_interval=1) for number in range(99)])
    for number in range(30):
        add_beats(dbsession, f"10.0.0.{number}", [60.0] * 5, until=29 - number)

    found = rhythms_by_source(call)

    names = [f"10.0.0.{number}" for number in reversed(range(10, 30))]
    assert [*found] == [None, *names]
    assert found[None]["beats"] == 180
    assert found[names[0]]["missed_flows"] == 99
    assert len(found[names[0]]["missed_flow_names"]) == 20
    assert all(x < y for x, y in pairwise(found[names[0]]["missed_flow_names"]))
    assert "and 79 more" in found[names[0]]["verdict"]
