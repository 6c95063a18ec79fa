"""The button that rehearses a flow, and the page that it returns."""

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlow, DataFlowRun
from data_flows.heartbeat.optional.rehearse.rehearsal import THREAD

from ..conftest import MakeApp
from ..notes import Note
from .browsing import browser_of, csrf_token_of, signed_in
from .conftest import SECONDS, Gate
from .operated import SECRET, as_operator, row_of
from .rehearsed import fail, hang, work

pytestmark = pytest.mark.usefixtures("notes")
PATH = "/heartbeat/flows/work"


def rehearse(browser: Any, name: str = "work", status: int = 200) -> Any:
    """Press the button of a flow's page; return the page that it returns."""
    form = browser.get(f"/heartbeat/flows/{name}").forms[1]
    return form.submit("do", value="rehearse", status=status)


def state_of(dbsession: Session, name: str = "work") -> dict[str, Any]:
    """Return a flow's row, and how many runs and notes there are."""
    dbsession.rollback()
    row = row_of(dbsession, name)
    values = {column.key: getattr(row, column.key) for column in DataFlow.__table__.columns}
    for table in (DataFlowRun, Note):
        values[table.__tablename__] = dbsession.scalar(select(func.count()).select_from(table))
    return values


def test_the_button_shows_what_it_wrote_and_nothing_is_kept(
    make_app: MakeApp, dbsession: Session
) -> None:
    browser = signed_in(make_app(work, **SECRET))
    browser.get(PATH)
    before = state_of(dbsession)

    page = rehearse(browser)

    cells = [cell.text for cell in page.html.select("table.rows td")]
    assert page.html.select_one("table.rows tbody th").text == Note.__tablename__
    assert cells == ["6", "3", "2", "0"]
    assert '"rows": 6' in page.html.select_one("#result").text
    assert "at work on {}" in page.html.select_one("#log").text
    assert state_of(dbsession) == before


def test_times_are_in_the_zone_of_the_flow(make_app: MakeApp) -> None:
    app = make_app(work, **SECRET)
    change = {"timezone": "Asia/Tokyo"}
    as_operator(app)("PATCH", "/flows/work", change, status=200)

    page = rehearse(signed_in(app))

    assert "JST" in page.html.find("main").text


def test_a_failing_flow_is_shown_with_its_backtrace(make_app: MakeApp, dbsession: Session) -> None:
    browser = signed_in(make_app((fail, {"pause_after": 1}), **SECRET))
    browser.get("/heartbeat/flows/fail")
    before = state_of(dbsession, "fail")

    page = rehearse(browser, "fail")

    assert page.html.select_one(".message").text == "no such bird"
    assert 'raise LookupError("no such bird")' in page.html.select_one("#backtrace").text
    assert state_of(dbsession, "fail") == before


def test_one_that_takes_too_long_is_given_up_and_few_go_on_at_once(
    make_app: MakeApp, dbsession: Session, gate: Gate
) -> None:
    sessions: list[Session] = []
    errors: list[BaseException] = []

    def held(run: Run) -> None:
        run.session.add(Note(name="held", mark=f"held {len(sessions)}"))
        run.session.flush()
        sessions.append(run.session)
        gate.hold()
        try:
            run.session.flush()
        except BaseException as error:
            errors.append(error)
            raise

    browser = signed_in(make_app((held, {"name": "work"}), **SECRET, **{"heartbeat.wait": "1s"}))
    browser.get(PATH)
    before = state_of(dbsession)

    for _ in range(2):
        page = rehearse(browser)
        assert "took longer than 1 s, and was rolled back" in page.html.select_one(".message").text
        # Its locks are gone: somebody else can write.
        dbsession.add(Note(name="other", mark="other"))
        dbsession.flush()
        dbsession.rollback()
    refused = rehearse(browser, status=409)
    assert "2 rehearsals are going on" in refused.html.select_one("[role=alert]").text
    gate.open()

    assert state_of(dbsession) == before


def test_the_process_of_a_flow_with_a_timeout_is_given_up_too(
    make_app: MakeApp, dbsession: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_FOLDER", str(tmp_path))
    slow = (hang, {"name": "work", "timeout": "1h"})
    browser = signed_in(make_app(slow, **SECRET, **{"heartbeat.wait": "1s"}))
    browser.get(PATH)
    before = state_of(dbsession)

    page = rehearse(browser)

    assert "took longer than 1 s, and was rolled back" in page.html.select_one(".message").text
    for thread in threading.enumerate():
        if thread.name == THREAD:
            thread.join(SECONDS)
            assert not thread.is_alive()
    assert state_of(dbsession) == before


def test_it_is_for_operators_with_their_csrf_token(make_app: MakeApp) -> None:
    app = make_app(work, **SECRET)
    given = {"do": "rehearse", "name": "work"}

    browser_of(app).post("/heartbeat/act", given, status=303)  # to the sign-in
    browser = signed_in(app)
    browser.post("/heartbeat/act", given, status=403)
    token = csrf_token_of(browser)
    page = browser.post("/heartbeat/act", {**given, "csrf_token": token}, status=200)
    assert "Rehearsal of work" in page.text
    given["name"] = "nope"
    browser.post("/heartbeat/act", {**given, "csrf_token": token}, status=404)
