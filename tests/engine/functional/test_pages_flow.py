"""The page of a flow: its pictures, and the form of its configuration."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, SecretStr
from sqlalchemy import insert
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlowRun

from ..conftest import FakeClock, MakeApp
from ..factories import data_flow_run
from .browsing import signed_in
from .conftest import settle
from .operated import SECRET, count, row_of, runs_of
from .test_pages_flows import bad

Post = Callable[..., Any]
HOUR = timedelta(hours=1)


class Sizes(BaseModel):
    """What may be configured."""

    region: Literal["eu", "us"] = "eu"
    limit: int = Field(10, gt=0, description="How many rows at most.")
    note: str | None = None
    tags: list[str] = []
    is_dry: bool = False
    password: SecretStr = SecretStr("")


def sized(run: Run) -> dict[str, Any]:
    """Return what is configured."""
    return {"limit": run.configuration.limit}


def sized_app(make_app: MakeApp) -> Any:
    """Make an application with the flow `sized`."""
    return make_app((sized, {"configuration": Sizes}), **SECRET)


def config_form(page: Any) -> Any:
    """Return the form of the configuration."""
    return next(form for form in page.forms.values() if "save" in str(form.text))


def test_the_page_says_what_happens_next(make_app: MakeApp) -> None:
    schedule = {"every": None, "cron": "0 3 * * *", "timezone": "Europe/Berlin"}
    browser = signed_in(make_app((count, schedule), **SECRET))

    page = browser.get("/heartbeat/flows/count")

    assert "No beat has come yet" in page.html.select_one(".why").text
    slots = page.html.find("table", attrs={"data-live": "slots"}).select("tbody tr")
    assert len(slots) == 5
    cells = [cell.text for cell in slots[0].find_all("td")]
    assert cells == ["2026-03-02 03:00:00 CET", "2026-03-02 02:00:00 UTC"]
    assert "No runs yet" in page.text


def test_runs_are_drawn_and_listed(
    make_app: MakeApp, post: Post, dbsession: Session, clock: FakeClock
) -> None:
    app = make_app(bad, **SECRET)
    post(app)
    flow = row_of(dbsession, "bad")
    spans = {1: (4, 3), 2: (3, 2), 3: (1, 0)}  # between 2 and 1 hours ago there is a gap
    dbsession.execute(
        insert(DataFlowRun),
        [
            {
                "data_flow_id": flow.id,
                "status": "success",
                "scheduled_for": clock.now() - number * HOUR,
                "started_at": clock.now() - 24 * number * HOUR,
                "ended_at": clock.now() - 24 * number * HOUR,
                "duration": number * 0.3,
                "window_start": clock.now() - begin * HOUR,
                "window_end": clock.now() - end * HOUR,
            }
            for number, (begin, end) in spans.items()
        ],
    )
    dbsession.commit()

    page = signed_in(app).get("/heartbeat/flows/bad")

    assert page.html.select_one(".scatter")["aria-label"].startswith("4 runs, 1 of them failed")
    days = {cell["title"]: cell["class"] for cell in page.html.select(".calendar td[title]")}
    assert days["2026-03-01: a run failed"] == ["failed"]
    assert days["2026-02-28: all succeeded"] == ["success"]
    assert days["2026-02-25: no run"] == ["none"]
    [gap] = page.html.select(".gaps li")
    assert "10:00 UTC to 11:00 UTC" in gap.text
    assert "heartbeat backfill bad --from 2026-03-01T10:00:00+00:00" in gap.code.text
    rows = page.html.select("[data-live=runs] tbody tr")
    assert [row.select_one(".state").text.strip() for row in rows] == ["success"] * 3 + ["failed"]


def test_a_backfill_of_long_ago_makes_no_gap_of_what_lies_between(
    make_app: MakeApp, dbsession: Session, clock: FakeClock
) -> None:
    browser = signed_in(make_app(count, **SECRET))
    browser.get("/heartbeat/flows/count")
    flow_id, now = row_of(dbsession, "count").id, clock.now()
    # The runs between were removed, or are older than those that a page reads.
    for trigger, begin, end in (("schedule", 2, 1), ("schedule", 1, 0), ("backfill", 90, 89)):
        window = {"window_start": now - begin * HOUR, "window_end": now - end * HOUR}
        columns = {"status": "success", "ended_at": now, "trigger": trigger, **window}
        dbsession.add(data_flow_run(data_flow_id=flow_id, **columns))
    dbsession.commit()

    page = browser.get("/heartbeat/flows/count")

    assert page.html.select(".gaps li") == []


def test_a_gap_between_windows_is_run_from_the_page(
    make_app: MakeApp, dbsession: Session, clock: FakeClock
) -> None:
    app = make_app(count, **SECRET)
    browser = signed_in(app)
    browser.get("/heartbeat/flows/count")
    flow_id = row_of(dbsession, "count").id
    now = clock.now()
    for begin, end in ((3, 2), (1, 0)):
        window = {
            "window_start": clock.now() - begin * HOUR,
            "window_end": clock.now() - end * HOUR,
        }
        run = data_flow_run(data_flow_id=flow_id, status="success", ended_at=now, **window)
        dbsession.add(run)
    dbsession.commit()
    page = browser.get("/heartbeat/flows/count")
    [form] = [form for form in page.forms.values() if "from" in form.fields]

    form.submit("do", value="backfill", status=303)

    settle()
    run = runs_of(dbsession, "count")[-1]
    assert (run.trigger, run.status) == ("backfill", "success")
    assert run.window_start == clock.now() - 2 * HOUR
    assert run.window_end == clock.now() - 1 * HOUR
    assert not browser.get("/heartbeat/flows/count").html.select(".gaps li")


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("", ""),
        ("2026-03-01T10:00:00", "2026-03-01T11:00:00"),
        ("2026-03-01T11:00:00+00:00", "2026-03-01T10:00:00+00:00"),
        ("2026-03-01T10:00:00+00:00", "2999-03-01T10:00:00+00:00"),
        ("0001-01-01T00:00:00+14:00", "2026-03-01T10:00:00+00:00"),
        ("<b>", "now"),
    ],
)
def test_a_window_that_is_not_of_the_past_is_refused(
    make_app: MakeApp, dbsession: Session, start: str, end: str
) -> None:
    browser = signed_in(make_app(count, **SECRET))
    form = browser.get("/heartbeat/flows/count").forms[1]
    given = {"name": "count", "csrf_token": form["csrf_token"].value, "do": "backfill"}

    page = browser.post("/heartbeat/act", {**given, "from": start, "to": end}, status=422)

    assert "of the past" in page.text
    assert runs_of(dbsession, "count") == []


def test_the_form_follows_the_model(make_app: MakeApp) -> None:
    form = config_form(signed_in(sized_app(make_app)).get("/heartbeat/flows/sized"))

    names = ["region", "limit", "note", "tags", "is_dry", "password"]
    kinds = [form[f"configuration.{name}"].tag for name in names]
    assert kinds == ["select", "input", "input", "textarea", "select", "input"]
    assert form["configuration.limit"].value == "10"
    assert form["configuration.password"].attrs["type"] == "password"
    assert form["configuration.password"].value == ""


def test_a_correction_is_saved_and_run(make_app: MakeApp, dbsession: Session) -> None:
    app = sized_app(make_app)
    form = config_form(signed_in(app).get("/heartbeat/flows/sized"))
    form["configuration.limit"] = "20"
    form["configuration.tags"] = '["a"]'
    form["configuration.is_dry"] = "true"

    page = form.submit("do", value="save-and-run").follow(status=200)
    settle()

    stored = row_of(dbsession, "sized").configuration or {}
    assert {"limit": 20, "tags": ["a"], "is_dry": True, "note": None}.items() <= stored.items()
    run = runs_of(dbsession, "sized")[0]
    assert page.request.path == f"/heartbeat/runs/{run.id}"
    assert run.result == {"limit": 20}


def test_errors_are_shown_by_field_and_nothing_typed_is_lost(
    make_app: MakeApp, dbsession: Session
) -> None:
    browser = signed_in(sized_app(make_app))
    for limit, tags, reason in (("-1", "[]", "greater than 0"), ("ten", "[1, ", "valid JSON")):
        form = config_form(browser.get("/heartbeat/flows/sized"))
        form["configuration.limit"], form["configuration.tags"] = limit, tags
        form["configuration.note"] = "typed <here>"

        page = form.submit("do", value="save", status=422)

        again = config_form(page)
        assert again["configuration.limit"].value == limit
        assert again["configuration.tags"].value.strip() == tags.strip()
        assert again["configuration.note"].value == "typed <here>"
        wrong = page.html.select_one("[aria-invalid]")
        assert reason in page.html.find(id=wrong["aria-describedby"]).text
    assert (row_of(dbsession, "sized").configuration or {})["limit"] == 10


def test_values_that_a_page_cannot_show_survive_the_form(
    make_app: MakeApp, dbsession: Session
) -> None:
    browser = signed_in(sized_app(make_app))
    browser.get("/heartbeat/flows")
    odd = {"note": "a\u202eb\x1b\n", "tags": ["c\u200b"], "limit": 5, "password": "keep"}
    row_of(dbsession, "sized").configuration = odd
    dbsession.commit()
    form = config_form(browser.get("/heartbeat/flows/sized"))
    form["configuration.limit"] = "ten"
    form["configuration.tags"] = form["configuration.tags"].value.replace("\n", "\r\n")

    form = config_form(form.submit("do", value="save", status=422))
    form["configuration.limit"] = "6"
    form.submit("do", value="save", status=303)

    stored = row_of(dbsession, "sized").configuration or {}
    assert {**odd, "limit": 6}.items() <= stored.items()


def test_a_configuration_without_a_model_is_json(make_app: MakeApp, dbsession: Session) -> None:
    browser = signed_in(make_app((count, {"configuration": {"birds": 1}}), **SECRET))
    form = config_form(browser.get("/heartbeat/flows/count"))
    for text in ("[1]", "{", "no"):
        form["configuration"] = text
        page = form.submit("do", value="save", status=422)
        assert config_form(page)["configuration"].value.strip() == text
    form["configuration"] = '{"birds": 2}'

    page = form.submit("do", value="save").follow()

    assert page.html.select_one(".notice").text == "The configuration is saved."
    assert row_of(dbsession, "count").configuration == {"birds": 2}


class Tree(BaseModel):
    """A configuration whose JSON schema is a reference to itself."""

    birds: int = 1
    branches: list["Tree"] = []


def test_a_model_without_a_list_of_fields_is_json(make_app: MakeApp, dbsession: Session) -> None:
    browser = signed_in(make_app((count, {"configuration": Tree}), **SECRET))
    form = config_form(browser.get("/heartbeat/flows/count"))
    form["configuration"] = '{"birds": 2, "branches": [{}]}'

    form.submit("do", value="save", status=303)

    assert row_of(dbsession, "count").configuration == {"birds": 2, "branches": [{}]}


def test_an_unreadable_flow_has_a_page(make_app: MakeApp, dbsession: Session) -> None:
    browser = signed_in(make_app(count, **SECRET))
    browser.get("/heartbeat/flows")
    row_of(dbsession, "count").timezone = "Nowhere/Land"
    dbsession.commit()

    page = browser.get("/heartbeat/flows/count", status=200)

    assert "cannot be read" in page.html.select_one(".why").text or "No beat" in page.text
