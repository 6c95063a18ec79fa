"""The start page: what it says in each state, and its picture at any size."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text, update
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat.models import DataFlow, DataFlowBeat, DataFlowRun

from ..conftest import DATABASE, FakeClock, MakeApp, heartbeat_of
from ..factories import NOON, data_flow, data_flow_beat, data_flow_run
from .broken import NO_TIME
from .browsing import signed_in
from .operated import SECRET, count
from .test_pages_flows import bad

Post = Callable[..., Any]
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
# Where now is in the picture of 24 hours behind and 6 ahead.
WIDTH, NOW_AT = 1000, 800
BEFORE_THE_CALENDAR = {
    "sqlite": "'0000-01-01 00:00:00'",
    "postgresql": "'-infinity'",
    "mysql": "'0000-00-00'",
}[DATABASE]
# Only SQLite stores infinity in a column of whole numbers.
NO_COUNT = {"sqlite": "9e999"}.get(DATABASE, "0")


def today(browser: Any) -> Any:
    """Return the page."""
    return browser.get("/heartbeat/today", status=200).html


def words(element: Any) -> str:
    """Return the text of an element in one line."""
    return " ".join(element.text.split())


def verdict(page: Any) -> str:
    """Return the sentence at the top."""
    return words(page.select_one(".verdict"))


def banners(page: Any) -> dict[str, str]:
    """Return the banners by the path that each links to."""
    return {banner.a["href"]: words(banner) for banner in page.select(".banner")}


def drawn(page: Any, outcome: str) -> list[tuple[float, float, str]]:
    """Return the bars of an outcome: where they begin, how wide they are, and what they say."""
    found = []
    for path in page.select(f".picture path.{outcome}"):
        title = path.title or path.find_parent("a").title
        for left, width in re.findall(r"M([\d.]+) [\d.]+h([\d.]+)", path["d"]):
            found.append((float(left), float(width), title.text))
    return found


def run(flow: DataFlow, ago: timedelta, status: str = "success", minutes: float = 1) -> DataFlowRun:
    """Build a run that ended some time before noon."""
    ended_at = NOON - ago
    length = minutes * MINUTE
    times = {"started_at": ended_at - length, "ended_at": ended_at}
    return data_flow_run(
        data_flow=flow, status=status, duration=length.total_seconds(), trigger="manual", **times
    )


@pytest.fixture
def browser(make_app: MakeApp) -> Any:
    """Sign in to an application without flows of its own, which knows the handler `orders`."""
    return signed_in(make_app(**SECRET))


def test_all_is_well(make_app: MakeApp, post: Post, clock: FakeClock) -> None:
    app = make_app(count, **SECRET)
    post(app)
    clock.advance(40)

    page = today(signed_in(app))

    assert verdict(page) == "All is well: 1 of 1 flow on time, last beat 40 s ago"
    assert not banners(page)
    [(left, _width, title)] = drawn(page, "success")
    assert NOW_AT - 2 < left < NOW_AT
    assert title == "count: 12:00:00 to 12:00:00 UTC, success, 0 ms"
    [beat] = re.findall(r"M([\d.]+)", page.select_one("path.beats")["d"])
    assert NOW_AT - 2 < float(beat) < NOW_AT


def test_what_is_wrong_is_said_in_words_with_links(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app(bad, count, **SECRET)
    post(app)
    late = {"next_run_at": clock.now() - HOUR, "last_run_status": "success"}
    dbsession.add(data_flow(name="late", handler="count", **late))
    dbsession.add(data_flow(name="gone", handler="nobody"))
    dbsession.commit()

    page = today(signed_in(app))

    trouble = "3 of 4 flows in trouble: 1 failing, 1 no handler, 1 late, last beat now"
    assert verdict(page) == trouble
    assert page.select_one(".verdict a")["href"] == "/heartbeat/flows?state=failing"
    assert banners(page).keys() == {"/heartbeat/flows?state=no+handler"}
    # The bar of the failed run is taller, so that colour is not the only sign.
    [failed] = page.select(".picture path.failed")
    assert "v22h" in failed["d"]
    assert failed.find_parent("a")["href"].startswith("runs/")
    names = [item.a.text for item in page.select(".lanes li")[1:]]
    assert names == ["bad", "gone", "late", "count"]


def test_no_beat_for_too_long(make_app: MakeApp, post: Post, clock: FakeClock) -> None:
    app = make_app(count, **SECRET, **{"heartbeat.expected_every": "5m"})
    post(app)
    browser = signed_in(app)
    clock.advance(600)
    assert not banners(today(browser))
    clock.advance(1)

    page = today(browser)

    assert "No beat for 10 min" in banners(page)["/heartbeat/beats"]
    assert "Nothing runs" in verdict(page)


def test_all_flows_are_paused(make_app: MakeApp, post: Post, dbsession: Session) -> None:
    app = make_app(count, bad, **SECRET)
    post(app)
    dbsession.execute(update(DataFlow).values(enabled=False, disabled_reason="we <move>"))
    dbsession.commit()

    page = today(signed_in(app))

    said = banners(page)["/heartbeat/flows?state=paused"]
    assert said == "All 2 flows are paused: we <move>. Resume flows"
    assert "All is well" not in verdict(page)
    assert not drawn(page, "planned")


def test_runs_that_were_reaped(browser: Any, dbsession: Session) -> None:
    dbsession.add(data_flow())
    dbsession.add(data_flow_beat(received_at=NOON - 23 * HOUR, runs_reaped=2))
    dbsession.add(data_flow_beat(received_at=NOON - 25 * HOUR, runs_reaped=5))
    dbsession.commit()

    assert "2 runs lost" in banners(today(browser))["/heartbeat/runs?status=failed"]


def work(page: Any) -> list[str]:
    """Return what the page says of the oldest pending run and of the workers."""
    return [words(line) for line in page.select("[data-live=work] p")]


def test_the_oldest_pending_run_and_the_workers_are_named(
    make_app: MakeApp, dbsession: Session
) -> None:
    browser = signed_in(make_app(count, **SECRET))
    assert work(today(browser)) == []
    begun = {"started_at": NOON - MINUTE, "lease_expires_at": NOON + MINUTE}
    waiting = [
        data_flow_run(
            data_flow=data_flow(name=name, handler=handler), created_at=NOON - ago, **columns
        )
        for name, handler, ago, columns in (
            ("gone", "gone", 7 * HOUR, {}),
            ("later", "count", 6 * HOUR, {"trigger": "retry", "not_before": NOON + HOUR}),
            ("oldest", "count", 5 * MINUTE, {"sent_at": NOON}),
            ("newer", "count", 4 * MINUTE, {}),
        )
    ]
    dbsession.add_all(waiting)
    for number, worker in enumerate(["host:12:2026-03-01T11:00", *["<b>:7:x"] * 2, "host:13:x"]):
        columns = {"status": "in_progress", "worker": worker, **begun}
        if number == 3:
            columns["lease_expires_at"] = NOON
        flow = data_flow(name=f"flow {number}", handler="count")
        dbsession.add(data_flow_run(data_flow=flow, **columns))
    dbsession.commit()

    page = today(browser)

    oldest = waiting[2].id
    assert work(page) == [
        f"Oldest pending run: {oldest} of oldest, which has waited for 5 min.",
        "Workers seen: <b>:7 (2 runs), host:12 (1 run).",
    ]
    links = [link["href"] for link in page.select("[data-live=work] a")]
    assert links == [f"/heartbeat/runs/{oldest}", "/heartbeat/flows/oldest"]
    titles = [worker["title"] for worker in page.select("[data-live=work] span")]
    assert titles == ["<b>:7:x", "host:12:2026-03-01T11:00"]


def test_of_many_workers_the_busiest_are_named(make_app: MakeApp, dbsession: Session) -> None:
    browser = signed_in(make_app(count, **SECRET))
    begun = {"status": "in_progress", "started_at": NOON, "lease_expires_at": NOON + MINUTE}
    for number, worker in enumerate(["busy:1:x", *[f"host:{each}:x" for each in range(40)]] * 2):
        if number > 41:
            break
        flow = data_flow(name=f"flow {number}", handler="count")
        dbsession.add(data_flow_run(data_flow=flow, worker=worker, **begun))
    dbsession.commit()

    [said] = work(today(browser))

    assert said.startswith("Workers seen: busy:1 (2 runs), host:0 (1 run), ")
    assert said.endswith(", and 35 more.")


def test_an_empty_project_says_how_to_begin(make_app: MakeApp) -> None:
    assert "heartbeat new" in words(today(signed_in(make_app(**SECRET))).main)

    page = today(signed_in(make_app(count, **SECRET)))

    assert verdict(page) == "Waiting for the first beat"
    assert "heartbeat beat" in words(page.main)


def test_bars_are_at_their_times(make_app: MakeApp, dbsession: Session) -> None:
    app = make_app((count, {"cron": "0 15 * * *", "every": None}), **SECRET)
    browser = signed_in(app)
    today(browser)  # registers the flow
    flow = dbsession.scalars(select(DataFlow)).one()
    dbsession.add_all([run(flow, 9 * HOUR, minutes=180), run(flow, 4 * HOUR, "failed", 60)])
    dbsession.add(run(flow, 25 * HOUR))
    active = {"status": "in_progress", "started_at": NOON - HOUR}
    dbsession.add(data_flow_run(data_flow=flow, **active))
    dbsession.commit()

    page = today(browser)

    # An hour is 33.3 wide. From 00:00 to 03:00, from 07:00 to 08:00, and from 11:00 until now.
    assert [bar[:2] for bar in drawn(page, "success")] == [(400, 100)]
    assert [bar[:2] for bar in drawn(page, "failed")] == [(633.3, 33.4)]
    assert [bar[:2] for bar in drawn(page, "running")] == [(766.7, 33.3)]
    # At 15:00, as long as the median of the two runs.
    [(left, width, title)] = drawn(page, "planned")
    assert (left, width) == (900, 66.7)
    assert "next at 15:00:00 UTC" in title
    cells = [words(cell) for cell in page.select_one("#table tbody tr").select("td")]
    failed = dbsession.scalars(select(DataFlowRun.id).filter_by(status="failed")).one()
    last = f"1, the last one: run {failed}"
    assert cells == ["running", "1", last, "2 h", "15:00 UTC"]


def test_a_failure_among_many_runs_is_drawn(browser: Any, dbsession: Session) -> None:
    flow = data_flow()
    dbsession.add(flow)
    runs = [
        run(flow, each * MINUTE, "failed" if each == 700 else "success") for each in range(1440)
    ]
    dbsession.add_all(runs)
    dbsession.commit()

    page = today(browser)

    [(left, width, title)] = drawn(page, "success")
    assert (left, width) == (0, NOW_AT)
    assert "1439 runs" in title
    [(left, _width, title)] = drawn(page, "failed")
    assert left == pytest.approx(NOW_AT - 701 * WIDTH / 1800, abs=0.1)
    [bar] = page.select(".picture path.failed")
    assert bar.find_parent("a")["href"] == f"runs/{runs[700].id}"


def test_hostile_names_are_escaped(browser: Any, dbsession: Session) -> None:
    name = "<script>alert(1)</script>\u202e\"'/../?x={{ 7 }}"
    flow = data_flow(name=name)
    dbsession.add_all([flow, data_flow_beat(), run(flow, HOUR), run(flow, 3 * HOUR, "failed")])
    dbsession.commit()

    page = browser.get("/heartbeat/today", status=200)

    assert "<script>alert" not in page.text
    assert "\u202e" not in page.text
    shown = name.replace("\u202e", "\\u202e")
    assert page.html.select(".lanes li a")[-1].text == shown
    assert page.html.select_one("#table th a").text == shown


def test_rows_that_cannot_be_read_are_left_out(browser: Any, dbsession: Session) -> None:
    flows = [data_flow(name="odd"), data_flow(name="fine")]
    runs = [run(flows[0], HOUR), run(flows[0], 2 * HOUR), run(flows[1], HOUR)]
    runs.append(run(flows[1], 3 * HOUR))
    beats = [data_flow_beat(received_at=NOON - HOUR), data_flow_beat()]
    dbsession.add_all([*flows, *runs, *beats])
    dbsession.flush()
    spoil(dbsession, runs[0], f"started_at = NULL, ended_at = {NO_TIME}")
    spoil(dbsession, runs[1], "started_at = NULL, duration = NULL")
    spoil(dbsession, runs[3], f"started_at = {BEFORE_THE_CALENDAR}")
    spoil(dbsession, flows[0], f"next_run_at = {NO_TIME}")
    spoil(dbsession, beats[0], f"runs_reaped = {NO_COUNT}")
    spoil(dbsession, beats[1], f"received_at = {NO_TIME}")
    pending = data_flow_run(data_flow=data_flow(name="waits", handler="orders"))
    dbsession.add(pending)
    dbsession.flush()
    spoil(dbsession, pending, f"created_at = {NO_TIME}")
    dbsession.commit()

    page = today(browser)

    titles = [title.partition(",")[0] for *_place, title in drawn(page, "success")]
    assert titles.pop(0) == "fine: 09:00:00 to 09:00:00 UTC"
    assert titles == ["fine: 10:59:00 to 11:00:00 UTC", "odd: 10:00:00 to 10:00:00 UTC"]
    assert [words(item.a) for item in page.select(".lanes li")[1:]] == ["fine", "odd", "waits"]
    assert work(page) == []


def spoil(dbsession: Session, row: Any, values: str) -> None:
    """Store values that no one can read."""
    if DATABASE == "mysql":
        dbsession.execute(text("SET SESSION sql_mode = 'ALLOW_INVALID_DATES'"))
    change = f"UPDATE {row.__tablename__} SET {values} WHERE id = {row.id}"  # noqa: S608 - own words
    dbsession.execute(text(change))


def test_the_page_costs_the_same_at_any_size(make_app: MakeApp, dbsession: Session) -> None:
    app = make_app(count, **SECRET)
    browser = signed_in(app)
    few = _statements(app, browser)
    for number in range(1000):
        trouble = {"last_run_status": "failed"} if number % 7 == 0 else {}
        next_run_at = NOON + (number + 1) * MINUTE
        name = f"{'flow' * 10} {number:04}"
        dbsession.add(data_flow(name=name, handler="count", next_run_at=next_run_at, **trouble))
    dbsession.flush()
    ids = dbsession.scalars(select(DataFlow.id)).all()
    dbsession.execute(
        insert(DataFlowRun),
        [_row(flow_id, 25 * each) for flow_id in ids[:60] for each in range(50)],
    )
    beats = [{"received_at": NOON - each * MINUTE, "source": "cron"} for each in range(1440)]
    counts = {"flows_triggered": 5, "flows_failed": 1}
    dbsession.execute(insert(DataFlowBeat), [beat | counts for beat in beats])
    dbsession.commit()

    many = _statements(app, browser)
    page = browser.get("/heartbeat/today")

    assert few <= many <= 12
    assert len(page.body) < 100_000
    names = [words(item.a) for item in page.html.select(".lanes li")[1:]]
    # The row of all flows, ten of those in trouble, and the ten that are due next.
    assert len(names) == 21
    assert names[0] == "All 1001 flows"
    states = [words(item.select_one(".state")) for item in page.html.select(".lanes li")[2:12]]
    assert states == ["failing"] * 10
    assert "7200 runs" in page.html.select_one("path.level4").find_parent("a").title.text
    assert drawn(page.html, "failed")


def _statements(app: TestApp, browser: Any) -> int:
    """Return how many statements the page needs, once the flows are registered."""
    browser.get("/heartbeat/today")
    found = []
    engine = heartbeat_of(app).engine
    event.listen(engine, "before_cursor_execute", lambda *given: found.append(given[2]))
    browser.get("/heartbeat/today")
    return len(found)


def _row(flow_id: int, minutes: int) -> dict[str, Any]:
    end = NOON - minutes * MINUTE
    return {
        "data_flow_id": flow_id,
        "status": "failed" if minutes % 7 == 0 else "success",
        "trigger": "manual",
        "started_at": end,
        "ended_at": end,
        "duration": 0.5,
    }
