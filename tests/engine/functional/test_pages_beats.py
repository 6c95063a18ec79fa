"""The page of beats: what it says about schedulers, its pictures, and its list."""

import re
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert
from sqlalchemy.orm import Session

from data_flows.heartbeat.models import DataFlowBeat

from ..conftest import MakeApp, heartbeat_of
from ..factories import NOON, data_flow, data_flow_beat
from .broken import NO_TIME
from .browsing import signed_in
from .operated import SECRET
from .test_pages_today import spoil, words

MINUTE = timedelta(minutes=1)


@pytest.fixture
def browser(make_app: MakeApp) -> Any:
    """Sign in to an application without flows of its own."""
    return signed_in(make_app(**SECRET))


def add_beats(dbsession: Session, source: str, *minutes: int) -> None:
    """Store beats of a source, some minutes before noon."""
    for each in sorted(minutes, reverse=True):
        dbsession.add(data_flow_beat(source=source, received_at=NOON - each * MINUTE))
    dbsession.commit()


def test_without_a_beat_it_says_how_to_make_one(browser: Any) -> None:
    page = browser.get("/heartbeat/beats", status=200).html

    assert "No beat has come yet" in words(page.main)
    assert not page.select("table")


def test_rhythms_and_the_flows_that_they_miss(browser: Any, dbsession: Session) -> None:
    dbsession.add_all([data_flow(name="every <minute>", run_interval=60), data_flow(name="slow")])
    add_beats(dbsession, "192.0.2.1 cron", *range(0, 100, 5))

    page = browser.get("/heartbeat/beats", status=200).html

    [row] = page.select("table.rows")[0].select("tbody tr")
    cells = [words(cell) for cell in row.select("th, td")]
    assert cells == ["192.0.2.1 cron", "20", "now 12:00:00 UTC", "5 min", "5 min", "5 min"]
    assert "too late for every <minute>." in words(page.select_one(".verdicts"))
    missed = page.find("a", string="every <minute>")
    assert missed["href"] == "flows/every%20%3Cminute%3E"
    assert not page.find("a", string="slow")
    [expected] = page.select(".histogram tr.expected")
    assert words(expected).endswith("19")
    assert "up to 5 min" in words(expected)


def test_two_schedulers_are_safe_and_the_stopped_one_is_named(
    browser: Any, dbsession: Session
) -> None:
    add_beats(dbsession, "198.51.100.9 old", *range(60, 90))
    add_beats(dbsession, "192.0.2.1 cron", *range(90))

    page = browser.get("/heartbeat/beats", status=200).html

    said = words(page.select_one(".verdicts"))
    assert "Two schedulers at once are safe" in said
    assert "Stopped: 198.51.100.9 old." in said
    assert [words(row.th) for row in page.select("tr.trouble")] == ["198.51.100.9 old has stopped"]
    lines = page.select(".dots .picture svg path")[1:]
    assert [line.title.text for line in lines] == ["192.0.2.1 cron", "198.51.100.9 old"]
    assert [len(re.findall("M", line["d"])) for line in lines] == [90, 30]


def test_the_list_is_read_page_by_page(browser: Any, dbsession: Session) -> None:
    add_beats(dbsession, "cron", *range(120))
    page = browser.get("/heartbeat/beats")
    times, pages = [], 0
    while page:
        times += [
            row.time["datetime"] for row in page.html.select("table.rows")[-1].select("tbody tr")
        ]
        pages += 1
        following = page.html.select_one("a[rel=next]")
        page = following and browser.get(f"/heartbeat/beats{following['href']}")

    assert pages == 3
    assert times == sorted(set(times), reverse=True)
    assert len(times) == 120


@pytest.mark.parametrize("before", ["", "0", "-1", "x", "9" * 40, "1\0", "²"])
def test_an_odd_place_in_the_list_is_no_error(
    browser: Any, dbsession: Session, before: str
) -> None:
    add_beats(dbsession, "cron", 0)

    browser.get("/heartbeat/beats", {"before": before}, status=200)
    assert browser.get("/heartbeat/beats?before=%ff", status=400).html.h1.text == "Bad Request"


def test_hostile_sources_are_escaped(browser: Any, dbsession: Session) -> None:
    add_beats(dbsession, "<script>alert(1)</script>\u202e", *range(9))

    page = browser.get("/heartbeat/beats", status=200)

    assert "<script>alert" not in page.text
    assert "\u202e" not in page.text


def test_a_beat_that_cannot_be_read_is_listed(browser: Any, dbsession: Session) -> None:
    add_beats(dbsession, "cron", *range(9))
    odd = data_flow_beat()
    dbsession.add(odd)
    dbsession.flush()
    spoil(dbsession, odd, f"received_at = {NO_TIME}")
    dbsession.commit()

    page = browser.get("/heartbeat/beats", status=200).html

    rows = page.select("table.rows")[-1].select("tbody tr")
    assert len(rows) == 10
    assert words(rows[0].th) == "unreadable"
    assert words(page.select_one(".verdict")) == "Last beat now, expected every 5 min"


def test_the_page_costs_the_same_at_any_size(make_app: MakeApp, dbsession: Session) -> None:
    app = make_app(**SECRET)
    browser = signed_in(app)
    for number in range(1000):
        dbsession.add(data_flow(name=f"{'flow' * 10} {number:04}", run_interval=30))
    beats = [
        {"received_at": NOON - each * MINUTE, "source": f"192.0.2.{each % 50} {'cron' * 9}"}
        for each in reversed(range(3000))
    ]
    dbsession.execute(insert(DataFlowBeat), beats)
    dbsession.commit()
    browser.get("/heartbeat/beats")
    found = []
    engine = heartbeat_of(app).engine
    event.listen(engine, "before_cursor_execute", lambda *given: found.append(given[2]))

    page = browser.get("/heartbeat/beats")

    assert len(found) <= 12
    assert len(page.body) < 100_000
