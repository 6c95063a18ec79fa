"""Pages for browsers beside the JSON for programs: which one is sent, errors, and headers."""

from typing import Any

import pytest
from pyramid.config import Configurator
from sqlalchemy import update
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat.models import DataFlow

from ..conftest import MakeApp
from .browsing import ACCEPT, browser_of, sign_in, signed_in
from .operated import AS_OPERATOR, OPERATOR, SECRET, count

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@pytest.mark.parametrize("accept", ["application/json", "*/*", None, "application/*", "nonsense"])
def test_programs_get_json(make_app: MakeApp, accept: str | None) -> None:
    app = make_app(count, **SECRET)
    headers = {**AS_OPERATOR, **({"Accept": accept} if accept else {})}

    assert app.get("/heartbeat/flows", headers=headers).json["flows"][0]["name"] == "count"
    problem = app.get("/heartbeat/nothing", headers=headers, status=404)
    assert problem.content_type == "application/problem+json"
    del headers["Authorization"]
    refused = app.get("/heartbeat/flows", headers=headers, status=401)
    assert refused.json["error"] == "Unauthorized"


def test_browsers_get_pages_also_with_a_token_in_a_header(make_app: MakeApp) -> None:
    app = make_app(count, **SECRET)

    page: Any = app.get("/heartbeat/flows", headers={**AS_OPERATOR, "Accept": ACCEPT})

    assert page.html.find("tbody").a.text == "count"
    assert page.html.find("form", class_="account") is None


def test_errors_are_pages_with_a_way_back(make_app: MakeApp) -> None:
    browser = signed_in(make_app(count, **SECRET))

    for path, status in (("/nothing", 404), ("/flows/nobody", 404), ("", 405)):
        page = browser.get(f"/heartbeat{path}", status=status)
        assert page.html.select_one(".code").text == str(status)
        assert page.html.find("main").a["href"] == "/heartbeat/flows"


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_scheduler_that_claims_to_be_a_browser_gets_problems_in_json(
    make_app: MakeApp, method: str
) -> None:
    scheduler = browser_of(make_app(count, **SECRET, **{"heartbeat.allow_get": "true"}))

    refused = scheduler.request(
        "/heartbeat", method=method, headers={"Authorization": "Bearer wrong"}, status=401
    )

    assert refused.content_type == "application/problem+json"
    assert refused.headers["WWW-Authenticate"] == "Bearer"


def test_a_path_that_is_not_utf_8_leads_a_browser_to_the_sign_in(make_app: MakeApp) -> None:
    redirect = browser_of(make_app(**SECRET)).get("/heartbeat/%ff", status=303)

    assert redirect.headers["Location"].endswith("/heartbeat/sign-in")


def test_a_database_that_is_away_is_a_page_that_says_so(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:////nowhere/at.all")
    browser = signed_in(make_app(**SECRET))

    page = browser.get("/heartbeat/flows", status=503)

    assert page.headers["Retry-After"]
    assert "database" in page.html.find("main").text


def test_each_reply_has_the_headers(make_app: MakeApp) -> None:
    browser = signed_in(make_app(count, **SECRET))
    page = browser.get("/heartbeat/flows")
    paths = [page.html.find("script")["src"], page.html.find("link", rel="stylesheet")["href"]]
    paths += ["/heartbeat/flows", "/heartbeat/today", "/heartbeat/sign-in", "/heartbeat/no"]

    for path in paths:
        headers = browser.get(path, status="*").headers
        assert headers["Content-Security-Policy"] == CSP, path
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["X-Frame-Options"] == "DENY"
        cached = "immutable" if "/static/" in path else "no-store"
        assert cached in headers["Cache-Control"]


def test_the_whole_application_has_the_headers(app: TestApp) -> None:
    home: Any = app.get("/", status=200)

    assert home.headers["Content-Security-Policy"] == CSP
    assert home.headers["X-Content-Type-Options"] == "nosniff"
    assert "Content-Security-Policy" in app.get("/nothing", status=404).headers
    for element in home.html.find_all(["link", "script", "img"]):
        app.get(element.get("href") or element["src"], status=200)
    assert not home.html.find_all("style")
    assert not home.html.find_all(style=True)


def test_static_files_need_no_token_and_are_not_listed(make_app: MakeApp) -> None:
    app = make_app(**SECRET)
    sheet = browser_of(app).get("/heartbeat/sign-in").html.find("link", rel="stylesheet")["href"]
    folder = sheet.rpartition("/")[0]

    assert app.get(sheet, status=200).content_type == "text/css"
    assert app.get(sheet.replace(folder, "/heartbeat/static/old")).headers["Cache-Control"] == (
        "no-store"
    )
    app.get(f"{folder}/", status=401)
    for name in ("nothing", "..%2f__init__.py", "%00"):
        assert app.get(f"{folder}/{name}", status="4*").status_int in {401, 404}


def test_hostile_names_are_escaped(make_app: MakeApp, dbsession: Session) -> None:
    app = make_app(count, **SECRET)
    browser = signed_in(app)
    browser.get("/heartbeat/flows")
    name = "<script>alert(1)</script>\u202eevil\x1b[31m\"'{{ 7 * 7 }}"
    dbsession.execute(update(DataFlow).values(name=name, enabled=False, disabled_reason=name))
    dbsession.commit()

    page = browser.get("/heartbeat/flows")
    found = browser.get("/heartbeat/flows", {"q": "<SCRIPT>"})
    none = browser.get("/heartbeat/flows", {"q": "</style>\u202e\0"})

    for text in (page.text, found.text, none.text):
        assert "<script>alert" not in text
        assert "\u202e" not in text
        assert "\x1b" not in text
    shown: Any = page.html.find("tbody").a
    assert shown.text == name.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b")
    assert found.html.find("tbody")
    assert not none.html.find("tbody")


def test_pages_do_not_depend_on_the_hosts_jinja(config: Configurator) -> None:
    config.add_settings({"jinja2.autoescape": "false", "jinja2.block_start_string": "<%"})
    config.include("pyramid_jinja2")
    config.include("data_flows.heartbeat")
    browser = browser_of(TestApp(config.make_wsgi_app()))

    page = sign_in(browser, OPERATOR, status=303).follow(status=200)

    assert page.html.h1.text == "Today"


@pytest.mark.parametrize(
    "page", ["today", "flows", "flows/x", "runs", "runs/1", "beats", "sign-in"]
)
@pytest.mark.parametrize("query", ["q=%ff", "%ff=1", "next=%ff", "after=9~%ff", "flow=%C3%28"])
def test_a_query_that_is_not_utf_8_is_refused(make_app: MakeApp, page: str, query: str) -> None:
    browser = signed_in(make_app(**SECRET))

    shown = browser.get(f"/heartbeat/{page}?{query}", status=400)

    assert shown.content_type == "text/html"
    assert "UTF-8" in shown.text


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=latin-1",
        "multipart/form-data",
    ],
)
@pytest.mark.parametrize("body", [b"token=%ff", b"token=\xff", b"%ff=1", b"csrf_token=%ed%a0%80"])
def test_a_form_that_cannot_be_read_is_refused(
    make_app: MakeApp, content_type: str, body: bytes
) -> None:
    browser = signed_in(make_app(**SECRET))

    for page in ("sign-in", "act", "sign-out"):
        headers = {"Content-Type": content_type}
        shown = browser.post(f"/heartbeat/{page}", body, headers, expect_errors=True)

        assert shown.status_int in {400, 403}
