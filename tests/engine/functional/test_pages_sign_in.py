"""Signing in with an operator's token, and what a session may do and for how long."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pyramid.config import Configurator
from webtest import TestApp

from ..conftest import TOKEN, FakeClock, MakeApp
from .browsing import browser_of, csrf_token_of, sign_in, signed_in
from .operated import AS_OPERATOR, OPERATOR, SECRET, count

HOUR = 3600


@pytest.fixture
def app(make_app: MakeApp) -> TestApp:
    """Make an application with an operator's token and a flow."""
    return make_app(count, **SECRET)


def test_a_browser_signs_in_and_returns_to_the_page_it_asked_for(app: TestApp) -> None:
    browser = browser_of(app)

    redirect = browser.get("/heartbeat/flows?q=a", status=303)
    form = redirect.follow(status=200).forms[0]
    form["token"] = OPERATOR
    page = form.submit(status=303).follow(status=200)

    assert page.request.path_qs == "/heartbeat/flows?q=a"
    assert page.html.title.text.startswith("Flows")


def test_the_cookie_is_for_our_paths_alone_and_holds_no_secret(app: TestApp) -> None:
    for scheme in ("http", "https"):
        browser = browser_of(app, **{"wsgi.url_scheme": scheme})
        cookie = sign_in(browser, OPERATOR, status=303).headers["Set-Cookie"]

        assert "; Path=/heartbeat;" in cookie
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert ("; secure" in cookie.lower()) == (scheme == "https")
        assert OPERATOR not in cookie


def test_a_trusted_proxy_says_that_the_browser_uses_https(make_app: MakeApp) -> None:
    trusting = {**SECRET, "heartbeat.trusted_proxies": "10.0.0.0/8"}
    for peer, ini, scheme in (
        ("10.0.0.1", trusting, "https"),
        ("192.0.2.1", trusting, "http"),
        ("10.0.0.1", SECRET, "http"),
    ):
        forwarded = {"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_PROTO": "https"}
        reply = sign_in(browser_of(make_app(**ini), **forwarded), OPERATOR, status=303)

        assert urlsplit(reply.headers["Location"]).scheme == scheme
        assert ("; secure" in reply.headers["Set-Cookie"].lower()) == (scheme == "https")


def test_the_sign_in_accepts_a_token_that_is_not_ascii(make_app: MakeApp, tmp_path: Path) -> None:
    file = tmp_path / "operator.token"
    file.write_text("ein-schlüssel-für-жанна jeanne\n", "utf-8")
    app = make_app(count, **{"heartbeat.operator_token_file": str(file)})

    browser = signed_in(app, "ein-schlüssel-für-жанна")

    assert "jeanne" in browser.get("/heartbeat/today", status=200).text


def test_wrong_tokens_are_refused_logged_and_counted(
    app: TestApp, caplog: pytest.LogCaptureFixture
) -> None:
    browser = browser_of(app, REMOTE_ADDR="192.0.2.7")

    with caplog.at_level(logging.WARNING):
        refused = sign_in(browser, "not-the-token", status=401)
        assert "not a valid token" in refused.html.find(role="alert").text
    assert sign_in(browser, TOKEN, status=403).html.find(role="alert")
    for _ in range(20):
        last = sign_in(browser, "not-the-token", status="*")
    accepted = sign_in(browser, OPERATOR, status=303)

    assert "refused a call from 192.0.2.7: 401" in caplog.text
    assert "not-the-token" not in caplog.text + refused.text
    assert last.status_int == 429
    assert int(last.headers["Retry-After"]) > 0
    assert "heartbeat_session" in accepted.headers["Set-Cookie"]


def test_addresses_apply_to_the_sign_in_and_to_sessions(make_app: MakeApp) -> None:
    app = make_app(count, **SECRET, **{"heartbeat.allowed_ips": "192.0.2.0/24"})
    browser = signed_in(app, REMOTE_ADDR="192.0.2.1")

    browser.get("/heartbeat/flows", status=200)
    browser.get("/heartbeat/flows", extra_environ={"REMOTE_ADDR": "198.51.100.1"}, status=403)
    browser_of(app, REMOTE_ADDR="198.51.100.1").get("/heartbeat/sign-in", status=403)


@pytest.mark.parametrize(
    "target",
    ["https://evil.test/", "//evil.test", "/elsewhere", "/heartbeat/\\evil", "/heartbeat/\r\nX: y"],
)
def test_the_sign_in_leads_to_no_other_site(app: TestApp, target: str) -> None:
    reply = sign_in(browser_of(app), OPERATOR, target, status=303)

    assert urlsplit(reply.headers["Location"])[1:] == ("localhost", "/heartbeat/today", "", "")


def test_the_form_of_the_sign_in_needs_its_own_cookie(app: TestApp) -> None:
    form = browser_of(app).get("/heartbeat/sign-in").forms[0]
    forged = {"token": OPERATOR, "csrf_token": form["csrf_token"].value}

    reply = browser_of(app).post("/heartbeat/sign-in", forged, status=403)

    assert "heartbeat_session" not in reply.headers["Set-Cookie"]


def test_a_session_ends_when_it_is_idle(app: TestApp, clock: FakeClock) -> None:
    browser = signed_in(app)
    for _ in range(2):
        clock.advance(7 * HOUR)
        browser.get("/heartbeat/flows", status=200)
    # The script that updates a page is no visit.
    clock.advance(7 * HOUR)
    browser.get("/heartbeat/flows", headers={"X-Live": "1"}, status=200)
    clock.advance(2 * HOUR)
    browser.get("/heartbeat/flows", status=303)


def test_a_session_ends_after_a_day_in_use(app: TestApp, clock: FakeClock) -> None:
    browser = signed_in(app)
    for _ in range(4):
        clock.advance(6 * HOUR)
        browser.get("/heartbeat/flows", status=200)
    clock.advance(1)

    browser.get("/heartbeat/flows", status=303)


def test_a_session_ends_with_its_token(make_app: MakeApp, tmp_path: Path) -> None:
    file = tmp_path / "operator.token"
    first, second = "the-first-token-of-ann", "the-second-token-of-bob"
    file.write_text(f"{first} ann\n{second} bob\n")
    ini = {"heartbeat.operator_token_file": str(file)}
    app, other = make_app(count, **ini), make_app(**ini)
    ann, bob = signed_in(app, first), signed_in(app, second)
    # Another process accepts the session.
    other.get("/heartbeat/flows", headers={"Cookie": f"heartbeat_session={_cookie(ann)}"})
    assert "ann" in ann.get("/heartbeat/today").text

    file.write_text(f"{second} bob\n")

    ann.get("/heartbeat/today", status=303)
    bob.get("/heartbeat/today", status=200)


def test_a_session_ends_with_the_sign_out(app: TestApp) -> None:
    browser = signed_in(app)
    page = browser.get("/heartbeat/today")

    page.forms[0].submit(status=303)

    browser.get("/heartbeat/today", status=303)


def _other_first_letter(value: str) -> str:
    return f"{'B' if value[0] == 'A' else 'A'}{value[1:]}"


@pytest.mark.parametrize(
    "spoil", [lambda value: value[:-2], _other_first_letter, lambda _value: "%ff\xff;"]
)
def test_a_changed_cookie_authorises_nothing(app: TestApp, spoil: Callable[[str], str]) -> None:
    cookie = f"heartbeat_session={spoil(_cookie(signed_in(app)))}"

    app.get("/heartbeat/flows", headers={"Cookie": cookie}, status=401)


@pytest.mark.parametrize("other", [r'other="\377"', 'other="\xff"', "other=\xff", "a=b; =;;"])
def test_other_cookies_of_the_host_do_no_harm(app: TestApp, other: str) -> None:
    cookies = {"Cookie": f"{other}; heartbeat_session={_cookie(signed_in(app))}"}

    app.get("/heartbeat/flows", headers=cookies, status=200)
    app.get("/heartbeat/sign-in", headers={"Cookie": other}, status=200)
    app.get("/heartbeat/flows", headers={"Cookie": other}, status=401)


def test_pages_are_below_the_applications_route_prefix(config: Configurator) -> None:
    config.include("data_flows.heartbeat", route_prefix="/ops")
    browser = browser_of(TestApp(config.make_wsgi_app()))

    form = browser.get("/ops/heartbeat/today", status=303).follow(status=200).forms[0]
    form["token"] = OPERATOR
    reply = form.submit(status=303)

    assert "; Path=/ops/heartbeat;" in reply.headers["Set-Cookie"]
    assert reply.follow(status=200).html.nav.a["href"] == "/ops/heartbeat/today"


def test_a_session_never_beats(make_app: MakeApp) -> None:
    app = make_app(count, **SECRET, **{"heartbeat.allow_get": "true"})
    browser = signed_in(app)
    headers = {"X-CSRF-Token": csrf_token_of(browser), "Accept": "application/json"}

    browser.post("/heartbeat", headers=headers, status=401)
    browser.get("/heartbeat", headers=headers, status=401)
    browser.post("/heartbeat", headers={**headers, **AS_OPERATOR}, status=200)


def test_a_session_gets_json_and_changes_with_its_csrf_token(app: TestApp) -> None:
    browser = signed_in(app)
    json = {"Accept": "application/json"}
    token = csrf_token_of(browser)
    change: Any = {"enabled": False}

    assert browser.get("/heartbeat/flows", headers=json).json["flows"][0]["name"] == "count"
    for sent in ({}, {"X-CSRF-Token": "another"}, {"X-CSRF-Token": token[:-1]}):
        refused = browser.patch_json(
            "/heartbeat/flows/count", change, headers={**json, **sent}, status=403
        )
        assert "CSRF" in refused.json["detail"]
    headers = {**json, "X-CSRF-Token": token}
    changed = browser.patch_json("/heartbeat/flows/count", change, headers=headers, status=200)

    assert changed.json["enabled"] is False
    assert signed_in(app).post("/heartbeat/sign-out", status=403).html.h1.text == "Forbidden"


def _cookie(browser: TestApp) -> str:
    return str(browser.cookies["heartbeat_session"])
