"""The page of all flows: what it shows, in which order, and what it costs at any size."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import event, insert, select
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlow, DataFlowRun

from ..conftest import FakeClock, MakeApp, heartbeat_of
from ..factories import NOON
from .browsing import signed_in
from .operated import SECRET, count

Post = Callable[..., Any]


def bad(_run: Run) -> None:
    """Fail."""
    message = "no such bird"
    raise LookupError(message)


def shown(browser: Any, **query: str) -> list[tuple[str, str]]:
    """Return the names and states on the page, in its order."""
    rows = browser.get("/heartbeat/flows", query).html.select("tbody tr")
    return [(row.a.text, row.select_one(".state").text.strip()) for row in rows]


def test_flows_in_trouble_come_first(
    make_app: MakeApp, post: Post, dbsession: Session, clock: FakeClock
) -> None:
    app = make_app(bad, count, **SECRET)
    post(app)
    rows: dict[str, dict[str, Any]] = {
        "late": {"next_run_at": clock.now() - timedelta(hours=1), "last_run_status": "success"},
        "gone": {"handler": "nobody"},
        "off": {"enabled": False},
        "new": {"next_run_at": clock.now() + timedelta(hours=1)},
    }
    for name, values in rows.items():
        _add(dbsession, clock.now(), name, **values)
    browser = signed_in(app)

    found = shown(browser)

    assert found == [
        ("bad", "failing"),
        ("gone", "no handler"),
        ("late", "late"),
        ("off", "paused"),
        ("new", "new"),
        ("count", "ok"),
    ]
    assert shown(browser, state="paused") == [("off", "paused")]
    assert shown(browser, q="A") == found[:1] + found[2:3]
    assert shown(browser, q="%") == []


def test_a_name_is_found_by_any_part_of_it(make_app: MakeApp, dbsession: Session) -> None:
    browser = signed_in(make_app(**SECRET))
    for name in ("Ärger %_\\'\"", "Übung"):
        _add(dbsession, NOON, name, last_run_at=NOON, next_run_at=NOON)

    for part in ("Ärger", "rGER", "%_", "\\", "'\"", " "):
        assert shown(browser, q=part)[0][0].startswith("Ärger"), part
    assert [name for name, _state in shown(browser, q="Ü")] == ["Übung"]


def test_a_row_shows_its_runs_and_times(make_app: MakeApp, post: Post, clock: FakeClock) -> None:
    schedule = {"every": None, "cron": "0 3 * * *", "timezone": "Europe/Berlin"}
    app = make_app((count, schedule), bad, **SECRET)
    post(app)
    clock.advance(14 * 3600)
    post(app)

    page = signed_in(app).get("/heartbeat/flows").html
    row = page.find("a", string="count").find_parent("tr")

    assert row.svg is not None
    assert row.select_one(".strip")["aria-label"] == "Last 1 runs: 1 succeeded"
    text = " ".join(row.text.split())
    assert "every day at 03:00 Europe/Berlin" in text
    assert "now 03:00 CET 02:00 UTC" in text
    assert "in 1 d 2026-03-03 03:00 CET 2026-03-03 02:00 UTC" in text


def test_an_unreadable_row_is_shown_with_the_others(
    make_app: MakeApp, dbsession: Session, clock: FakeClock
) -> None:
    browser = signed_in(make_app(count, **SECRET))
    _add(dbsession, clock.now(), "odd", timezone="Nowhere/Land", cron="61 * * * *")

    assert {name for name, _state in shown(browser)} == {"count", "odd"}


def test_the_page_costs_the_same_at_any_size(
    make_app: MakeApp, dbsession: Session, clock: FakeClock
) -> None:
    app = make_app(count, **SECRET)
    browser = signed_in(app)
    few = _statements(app, browser)
    for number in range(120):
        _add(dbsession, clock.now(), f"{'flow' * 10} {number:03}", disabled_reason="x")
    ids = dbsession.scalars(select(DataFlow.id)).all()
    dbsession.execute(
        insert(DataFlowRun),
        [_run(flow_id, number, clock.now()) for flow_id in ids for number in range(40)],
    )
    dbsession.commit()

    many = _statements(app, browser)
    page = browser.get("/heartbeat/flows")
    names = []
    while page:
        names += [row.a.text for row in page.html.select("tbody tr")]
        assert len(page.body) < 100_000
        following = page.html.select_one("a[rel=next]")
        page = following and browser.get(f"/heartbeat/flows{following['href']}")

    assert few <= many <= 12
    assert len(names) == len(set(names)) == 121


def _statements(app: TestApp, browser: Any) -> int:
    """Return how many statements the page needs, once the flows are registered."""
    browser.get("/heartbeat/flows")
    found = []
    engine = heartbeat_of(app).engine
    event.listen(engine, "before_cursor_execute", lambda *given: found.append(given[2]))
    browser.get("/heartbeat/flows")
    return len(found)


def _add(dbsession: Session, now: datetime, name: str, **values: Any) -> None:
    schedule = {} if "cron" in values else {"run_interval": 300}
    common = {"handler": "count", "created_at": now, "updated_at": now, **schedule}
    dbsession.add(DataFlow(name=name, **{**common, **values}))
    dbsession.commit()


def _run(flow_id: int, number: int, now: datetime) -> dict[str, Any]:
    start = now - timedelta(minutes=number)
    return {
        "data_flow_id": flow_id,
        "status": "failed" if number % 7 == 0 else "success",
        "scheduled_for": start,
        "started_at": start,
        "ended_at": start,
        "duration": number / 3,
    }
