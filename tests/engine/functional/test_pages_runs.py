"""The page of runs: its filters and pages, failures by their errors, and what it costs."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event, insert, update
from sqlalchemy.orm import Session

from data_flows.heartbeat import Heartbeat
from data_flows.heartbeat.models import DataFlow, DataFlowRun

from ..conftest import FakeClock, MakeApp, heartbeat_of
from .browsing import signed_in
from .operated import SECRET, count, row_of, runs_of
from .test_pages_flows import _add, _run, bad

Post = Callable[..., Any]


def ids(page: Any) -> list[int]:
    """Return the runs on a page."""
    return [int(row.th.text) for row in page.html.select("tbody tr")]


def pages(browser: Any, path: str) -> Iterator[Any]:
    """Yield the pages of a list, each by the link of the one before."""
    while path:
        page = browser.get(f"/heartbeat/runs{path}")
        yield page
        link = page.html.select_one("a[rel=next]")
        path = link["href"] if link else ""


def fill(dbsession: Session, clock: FakeClock, flows: int, runs: int) -> None:
    """Store flows, each with runs."""
    for number in range(flows):
        _add(dbsession, clock.now(), f"{'flow' * 10} {number:03}")
    rows = [
        _run(flow.id, number, clock.now()) | {"error_type": f"Error{flow.id}"}
        for flow in dbsession.query(DataFlow)
        for number in range(runs)
    ]
    dbsession.execute(insert(DataFlowRun), rows)
    dbsession.commit()


def test_runs_are_listed_page_by_page(
    make_app: MakeApp, dbsession: Session, clock: FakeClock
) -> None:
    browser = signed_in(make_app(**SECRET))
    fill(dbsession, clock, 3, 40)
    name = f"{'flow' * 10} 001"

    found = [ids(page) for page in pages(browser, "?flow=")]
    assert [len(page) for page in found] == [30] * 4
    assert (newest := [run for page in found for run in page]) == sorted(newest, reverse=True)
    failed = browser.get("/heartbeat/runs", {"flow": name, "status": "failed"})
    assert len(ids(failed)) == 6
    assert "Show all runs" in browser.get("/heartbeat/runs", {"status": "pending"}).text


@pytest.mark.parametrize(
    ("query", "status"),
    [("flow=nobody", 404), ("status=odd", 422), ("before=x", 422), ("x=1", 422)],
)
def test_an_invalid_filter_is_a_page_that_says_so(
    make_app: MakeApp, query: str, status: int
) -> None:
    page = signed_in(make_app(**SECRET)).get(f"/heartbeat/runs?{query}", status=status)

    assert page.html.select_one(".code").text == str(status)


def test_failures_are_grouped_by_error_and_run_again(
    make_app: MakeApp, post: Post, dbsession: Session, clock: FakeClock
) -> None:
    def worse(_run: Any) -> None:
        raise KeyError("bird")

    def lost(_run: Any) -> None:
        raise LookupError("bird")

    def healed(_run: Any) -> None:
        raise LookupError("bird")

    app = make_app(bad, worse, lost, healed, (count, {"every": "1d"}), **SECRET)
    for _ in range(2):
        post(app)
        clock.advance(3 * 3600)
    dbsession.execute(update(DataFlow).where(DataFlow.name == "lost").values(handler="gone"))
    success = update(DataFlow).where(DataFlow.name == "healed").values(last_run_status="success")
    dbsession.execute(success)
    dbsession.commit()
    browser = signed_in(app)

    page = browser.get("/heartbeat/runs?by=error")

    groups = {part.h2.text: part for part in page.html.select("section")}
    assert groups.keys() == {"LookupError", "KeyError"}
    rows = {row.a.text: row for row in groups["LookupError"].select("tbody tr")}
    assert rows.keys() == {"bad", "lost", "healed"}
    assert [cell.text for cell in rows["bad"].find_all("td")[1:4]] == ["0", "2", "2"]
    form = next(form for form in page.forms.values() if "LookupError" in form.text)
    page = form.submit("do", value="run-failed").follow()
    assert "Requested a run of 1 flow" in page.html.select_one(".notice").text
    assert "Left out 1 flow" in page.html.select_one(".notice").text
    assert [run.trigger for run in runs_of(dbsession, "bad")] == ["schedule"] * 2 + ["manual"]
    for name in ("worse", "healed", "lost"):
        assert len(runs_of(dbsession, name)) == 2


@pytest.mark.parametrize("path", ["/runs", "/runs?by=error", "/flows/count", "/flows"])
def test_a_page_costs_the_same_at_any_size(
    make_app: MakeApp, dbsession: Session, clock: FakeClock, path: str
) -> None:
    app = make_app(count, **SECRET)
    browser = signed_in(app)
    browser.get("/heartbeat/flows")
    few = statements(heartbeat_of(app), browser, path)
    fill(dbsession, clock, 70, 20)
    rows = [_run(row_of(dbsession, "count").id, 100 + number, clock.now()) for number in range(300)]
    dbsession.execute(insert(DataFlowRun), rows)
    dbsession.commit()

    many = statements(heartbeat_of(app), browser, path)

    assert few <= many <= 12
    assert len(browser.get(f"/heartbeat{path}").body) < 100_000


def statements(heartbeat: Heartbeat, browser: Any, path: str) -> int:
    """Return how many statements a page needs."""
    found: list[str] = []
    event.listen(heartbeat.engine, "before_cursor_execute", lambda *given: found.append(given[2]))
    browser.get(f"/heartbeat{path}")
    return len(found)


def test_a_capped_count_says_so(make_app: MakeApp, dbsession: Session, clock: FakeClock) -> None:
    browser = signed_in(make_app(**SECRET))
    fill(dbsession, clock, 1, 7_001)

    page = browser.get("/heartbeat/runs?by=error")

    counts = [cell.text for cell in page.html.select_one("tbody tr").find_all("td")[1:4]]
    assert counts[2] == "1,000+"
    assert "among the newest 1,000" in page.text
