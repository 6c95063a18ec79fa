"""What the forms do: with one flow, with several, and with all of them."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from ..conftest import FakeClock, MakeApp, heartbeat_of
from ..factories import data_flow_run
from .browsing import csrf_token_of, signed_in
from .operated import SECRET, count, row_of, runs_of
from .test_pages_flows import _add, bad, shown

Post = Callable[..., Any]


def act(browser: Any, do: str, path: str = "/flows", **fields: Any) -> Any:
    """Send the form of the page of flows; return the page that follows."""
    chosen = fields.pop("name", [])
    form = browser.get(f"/heartbeat{path}").forms["act"]
    for name, value in fields.items():
        form[name] = value
    for field in form.fields.get("name", []):
        field.checked = field._value in chosen  # noqa: SLF001 - as in WebTest's own examples
    return form.submit("do", value=do).follow(status=200)


def notice(page: Any) -> str:
    """Return what a page says has been done."""
    return str(page.html.select_one(".notice").text)


def add_flows(dbsession: Session, clock: FakeClock, count: int) -> None:
    """Store flows f000, f001 ..."""
    for number in range(count):
        _add(dbsession, clock.now(), f"f{number:03}", next_run_at=clock.now())


def test_a_flow_is_paused_with_a_reason_and_resumed(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    app = make_app(count, **SECRET)
    browser = signed_in(app, REMOTE_ADDR="192.0.2.7")
    form = browser.get("/heartbeat/flows/count").forms[1]
    form["reason"] = "the warehouse\r\n moves"

    page = form.submit("do", value="pause").follow()

    reason = "paused by the operator at 192.0.2.7: the warehouse moves"
    assert row_of(dbsession, "count").disabled_reason == reason
    assert reason in page.html.select_one(".why").text
    page.forms[1].submit("do", value="resume", status=303)
    assert row_of(dbsession, "count").enabled is True
    assert post(app).json["flows_succeeded"] == 1


@pytest.mark.parametrize("do", ["run", "save-and-run"])
def test_a_conflict_is_shown_with_a_way_on(make_app: MakeApp, dbsession: Session, do: str) -> None:
    browser = signed_in(make_app(count, **SECRET))
    page = browser.get("/heartbeat/flows/count")
    run = data_flow_run(data_flow_id=row_of(dbsession, "count").id)
    dbsession.add(run)
    dbsession.commit()

    form = next(form for form in page.forms.values() if f'value="{do}"' in form.text)
    refused = form.submit("do", value=do, status=409)

    alert = refused.html.select_one("[role=alert]")
    assert "has a run that has not ended" in alert.text
    assert alert.a["href"] == f"/heartbeat/runs/{run.id}"


def test_chosen_flows_are_paused_and_resumed(
    make_app: MakeApp, dbsession: Session, clock: FakeClock
) -> None:
    browser = signed_in(make_app(count, **SECRET))
    add_flows(dbsession, clock, 3)
    dbsession.add(data_flow_run(data_flow_id=row_of(dbsession, "f001").id))
    dbsession.commit()

    page = act(browser, "pause-many", name=["f000", "f001"], reason="rest")

    assert notice(page) == "Paused 2 flows."
    assert shown(browser, state="paused") == [("f000", "paused"), ("f001", "paused")]
    assert str(row_of(dbsession, "f000").disabled_reason).endswith(": rest")
    [run] = runs_of(dbsession, "f001")
    assert (run.status, run.error_type) == ("failed", "Cancelled")
    assert row_of(dbsession, "f001").last_run_status == "failed"
    clock.advance(7200)
    assert "Resumed 2 flows" in notice(act(browser, "resume-many", name=["f000", "f001", "f002"]))
    flow = row_of(dbsession, "f000")
    assert (flow.enabled, flow.disabled_reason) == (True, None)
    # One slot of those that passed, not all.
    assert flow.next_run_at == clock.now()
    assert flow.updated_at == clock.now()
    assert notice(act(browser, "pause-many")) == "Paused 0 flows."


def test_filtered_flows_are_paused_in_few_statements(
    make_app: MakeApp, dbsession: Session, clock: FakeClock
) -> None:
    app = make_app(count, **SECRET)
    browser = signed_in(app)
    add_flows(dbsession, clock, 60)
    found: list[str] = []
    engine = heartbeat_of(app).engine
    browser.get("/heartbeat/flows")
    event.listen(engine, "before_cursor_execute", lambda *given: found.append(given[2]))

    assert notice(act(browser, "pause-many", "/flows?q=f0", which="all")) == "Paused 60 flows."
    assert row_of(dbsession, "count").enabled is True
    page = act(browser, "resume-many", "/flows?q=f00&state=paused", which="all")

    assert "Resumed 10 flows" in notice(page)
    assert len(found) < 60


def test_many_flows_run_now(
    make_app: MakeApp, post: Post, dbsession: Session, clock: FakeClock
) -> None:
    app = make_app(count, **SECRET, **{"heartbeat.workers": "2"})
    browser = signed_in(app)
    add_flows(dbsession, clock, 8)
    _add(dbsession, clock.now(), "f-gone", handler="gone")
    act(browser, "pause-many", "/flows?q=f", which="all")

    page = act(browser, "run-many", "/flows?q=f", which="all")
    post(app)

    assert "Requested a run of 8 flows" in notice(page)
    assert "Left out 1 flow" in notice(page)
    for number in range(8):
        [run] = runs_of(dbsession, f"f{number:03}")
        assert (run.trigger, run.status) == ("manual", "success")
    assert runs_of(dbsession, "f-gone") == []


def test_a_pause_of_everything_has_a_banner_and_its_resume_is_exact(
    make_app: MakeApp, dbsession: Session, clock: FakeClock
) -> None:
    browser = signed_in(make_app(count, bad, **SECRET))
    add_flows(dbsession, clock, 3)
    act(browser, "pause-many", name=["f000"], reason="mine")

    page = act(browser, "pause-many", which="all", reason="moving <house>")

    assert notice(page) == "Paused 4 flows."
    for path in ("/today", "/flows", "/runs", "/flows/bad", "/runs?by=error"):
        banner = browser.get(f"/heartbeat{path}").html.select_one(".banner")
        assert "All flows are paused" in banner.text
        assert "moving <house>" in banner.text
    form = next(form for form in page.forms.values() if "resume-everything" in form.text)
    page = form.submit("do", value="resume-everything").follow()
    assert "Resumed the 4 flows" in notice(page)
    assert page.html.select_one(".banner") is None
    assert str(row_of(dbsession, "f000").disabled_reason).endswith("mine")
    assert row_of(dbsession, "bad").enabled is True


def test_a_form_needs_its_csrf_token_and_a_known_action(make_app: MakeApp) -> None:
    browser = signed_in(make_app(count, **SECRET))
    token = csrf_token_of(browser)

    browser.post("/heartbeat/act", {"do": "run", "name": "count"}, status=403)
    for fields, status in (
        ({"do": "run", "name": "nobody"}, 404),
        ({"do": "save", "name": "no\0body"}, 404),
        ({"do": "explode", "name": "count"}, 400),
        ({}, 400),
    ):
        page = browser.post("/heartbeat/act", {**fields, "csrf_token": token}, status=status)
        assert page.html.find("main").a["href"] == "/heartbeat/flows"
