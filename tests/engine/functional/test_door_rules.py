"""The order of refusals, the throttle, and the preferences of a caller."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED
from sqlalchemy import select
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows import main
from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlowBeat, DataFlowRun
from data_flows.heartbeat.security.policy import OPERATE
from data_flows.heartbeat.security.token import Token, Tokens

from ..conftest import TOKEN, MakeApp

OPERATOR = "an-operator-token-for-tests-alone"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
AS_OPERATOR = {"Authorization": f"Bearer {OPERATOR}"}
WRONG = {"Authorization": "Bearer hunter2hunter2"}
LARGE = "x" * 70_000
# Python 3.13 has other words for 413; a reply has these with every version.
REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    405: "Method Not Allowed",
    413: "Request Entity Too Large",
    503: "Service Unavailable",
}
SECONDS = 30


def operate(config: Configurator) -> None:
    """Add a resource for operators, as the engine's own are declared."""

    def view(_request: Request) -> Response:
        return Response("operated")

    config.add_route("resource", "/resource")
    config.add_view(
        view,
        route_name="resource",
        permission=NO_PERMISSION_REQUIRED,
        require_csrf=False,
        heartbeat_permission=OPERATE,
        heartbeat_methods=("GET", "POST"),
    )


def from_address(address: str) -> dict[str, str]:
    return {"REMOTE_ADDR": address}


class Flow:
    """A flow that waits until the test opens its gate."""

    def __init__(self) -> None:
        self.inside, self.go_on = threading.Event(), threading.Event()

    def __call__(self, _run: Run) -> int:
        """Wait."""
        self.inside.set()
        assert self.go_on.wait(SECONDS)
        return 1


@pytest.fixture
def held() -> Iterator[Flow]:
    """Make a flow that waits; it ends, and its beat, at the end of the test."""
    flow = Flow()
    yield flow
    flow.go_on.set()
    for thread in threading.enumerate():
        if thread.name in {"heartbeat-beat", "heartbeat-worker"}:
            thread.join(SECONDS)
            assert not thread.is_alive()


# ---------------------------------------------------------------------------------------------
# The order of refusals


def test_refusals_are_decided_in_the_order_of_the_contract(
    make_app: MakeApp, tmp_path: Path
) -> None:
    file = tmp_path / "beat.token"
    app = make_app(
        **{
            "heartbeat.token": "",
            "heartbeat.token_file": str(file),
            "heartbeat.allowed_ips": "192.0.2.1",
        }
    )
    here, elsewhere = from_address("192.0.2.1"), from_address("192.0.2.2")

    def refused(path: str, method: str, environ: dict[str, str], **headers: str) -> int:
        response = app.request(
            path,
            method=method,
            body=LARGE.encode(),
            headers=headers,
            environ=environ,
            expect_errors=True,
        )
        assert response.headers["Cache-Control"] == "no-store"
        assert response.content_type == "application/problem+json"
        assert response.json["error"] == REASONS[response.status_int]
        return int(response.status_int)

    # Each request has all the problems that come later as well.
    assert refused("/heartbeat", "PUT", elsewhere, **WRONG) == 405
    assert refused("/heartbeat", "POST", elsewhere, **WRONG) == 403
    assert refused("/heartbeat", "POST", here, **WRONG) == 503
    assert refused("/heartbeat/nothing", "POST", elsewhere, **WRONG) == 403
    assert refused("/heartbeat/nothing", "POST", here, **WRONG) == 503
    file.write_text(f"{TOKEN}\n")
    assert refused("/heartbeat", "POST", here, **WRONG) == 401
    assert refused("/heartbeat/nothing", "POST", here, **WRONG) == 401
    assert refused("/heartbeat", "POST", here, **BEARER) == 413
    assert refused("/heartbeat/nothing", "POST", here, **BEARER) == 413
    app.post("/heartbeat/nothing", headers=BEARER, extra_environ=here, status=404)
    app.post("/heartbeat", headers=BEARER, extra_environ=here, status=200)


@pytest.mark.parametrize(
    ("headers", "line", "status"),
    [
        (WRONG, "POST /heartbeat", 401),
        (BEARER, "PUT /heartbeat", 405),
        (BEARER, "POST /heartbeat/nothing", 404),
        (BEARER, "GET /resource", 403),
        (WRONG, "GET /resource", 401),
    ],
)
def test_a_refusal_is_one_line_of_the_log_with_the_address(
    make_app: MakeApp,
    caplog: pytest.LogCaptureFixture,
    headers: dict[str, str],
    line: str,
    status: int,
) -> None:
    app = make_app(configure=operate)
    method, path = line.split()

    app.request(
        path,
        method=method,
        headers=headers,
        environ=from_address("192.0.2.7"),
        status=status,
    )

    lines = [line for line in caplog.messages if "192.0.2.7" in line]
    # For an authorised caller, an unknown path is not a refusal.
    assert len(lines) == (0 if status == 404 else 1)
    assert TOKEN not in caplog.text
    assert "hunter2" not in caplog.text


def test_an_address_that_is_not_allowed_is_logged(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(**{"heartbeat.allowed_ips": "192.0.2.1"})

    app.post("/heartbeat", headers=BEARER, extra_environ=from_address("192.0.2.7"), status=403)

    assert any("refused" in line and "192.0.2.7" in line for line in caplog.messages)


@pytest.mark.parametrize("query", [f"?token={TOKEN}", "?access_token=hunter2", f"?x={TOKEN}"])
@pytest.mark.parametrize("headers", [{}, BEARER])
def test_a_token_in_the_url_is_refused_and_warned_of(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture, query: str, headers: dict[str, str]
) -> None:
    make_app().post(f"/heartbeat{query}", headers=headers, status=401)

    assert "a call has a token in its URL" in caplog.text
    assert TOKEN not in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(("fields", "status"), [(50, 200), (51, 401), (100_000, 401)])
@pytest.mark.parametrize("headers", [{}, BEARER])
def test_of_a_query_with_very_many_fields_none_is_compared_with_the_tokens(
    make_app: MakeApp,
    monkeypatch: pytest.MonkeyPatch,
    fields: int,
    status: int,
    headers: dict[str, str],
) -> None:
    # Each comparison computes a hash, and any caller may send a line of 256 KiB.
    compared: list[str] = []
    match = Tokens.match

    def count(tokens: Tokens, presented: str) -> Token | None:
        compared.append(presented)
        return match(tokens, presented)

    monkeypatch.setattr(Tokens, "match", count)
    query = "&".join(["a=b"] * fields)

    make_app().post(f"/heartbeat?{query}", headers=headers, status=status if headers else 401)

    assert compared.count("b") == (2 * fields if fields <= 50 else 0)


def test_where_the_address_is_unknown_a_list_closes(make_app: MakeApp) -> None:
    nowhere = from_address("localhost")  # what a socket file has for an address

    make_app().post("/heartbeat", headers=BEARER, extra_environ=nowhere, status=200)
    for name in ("allowed_ips", "trusted_proxies"):
        app = make_app(**{f"heartbeat.{name}": "127.0.0.1"})
        app.post("/heartbeat", headers=BEARER, extra_environ=nowhere, status=403)


# ---------------------------------------------------------------------------------------------
# Who may what


def test_the_operators_token_may_beat_and_operate(make_app: MakeApp) -> None:
    app = make_app(configure=operate, **{"heartbeat.operator_token": OPERATOR})

    app.post("/heartbeat", headers=AS_OPERATOR, status=200)
    assert app.get("/resource", headers=AS_OPERATOR, status=200).text == "operated"
    assert app.post("/resource", headers=AS_OPERATOR, status=200).text == "operated"


def test_the_schedulers_token_may_only_beat(make_app: MakeApp) -> None:
    app = make_app(configure=operate, **{"heartbeat.operator_token": OPERATOR})

    response = app.get("/resource", headers=BEARER, status=403)

    assert response.json["error"] == "Forbidden"
    app.post("/heartbeat", headers=BEARER, status=200)
    app.get("/resource", status=401)


def test_a_secret_that_comes_to_stand_in_both_files_may_only_beat(
    make_app: MakeApp, tmp_path: Path
) -> None:
    files = [tmp_path / "beat.token", tmp_path / "operator.token"]
    app = make_app(
        configure=operate,
        **{
            "heartbeat.token_file": str(files[0]),
            "heartbeat.operator_token_file": str(files[1]),
        },
    )
    for file in files:
        file.write_text(f"{OPERATOR}\n")

    app.post("/heartbeat", headers=AS_OPERATOR, status=200)
    app.get("/resource", headers=AS_OPERATOR, status=403)


def test_require_token_false_opens_the_beat_alone_and_is_warned_of(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(
        configure=operate,
        **{"heartbeat.require_token": "false", "heartbeat.operator_token": OPERATOR},
    )

    assert [record.levelname for record in caplog.records if "require_token" in record.message] == [
        "WARNING"
    ]
    app.post("/heartbeat", status=200)
    app.post("/heartbeat", headers=WRONG, status=200)
    app.get("/resource", status=401)
    app.post("/resource", headers=BEARER, status=403)


def test_require_token_false_does_not_open_for_other_addresses(make_app: MakeApp) -> None:
    app = make_app(**{"heartbeat.require_token": "false", "heartbeat.allowed_ips": "192.0.2.0/24"})

    app.post("/heartbeat", extra_environ=from_address("198.51.100.1"), status=403)
    app.post("/heartbeat", extra_environ=from_address("192.0.2.1"), status=200)


def test_without_a_token_of_operators_their_resources_stay_shut(make_app: MakeApp) -> None:
    app = make_app(configure=operate, **{"heartbeat.token": "", "heartbeat.require_token": "false"})

    assert "token_file" in app.get("/resource", status=503).json["detail"]
    app.post("/heartbeat", status=200)


def test_the_tokens_of_a_file_and_their_names_are_read_again(
    make_app: MakeApp, tmp_path: Path, dbsession: Session
) -> None:
    first, second = "the-first-token-of-the-file", "the-second-token-of-the-file"
    file = tmp_path / "beat.token"
    file.write_text(f"# the schedulers\n{first} cron\n{second} uptime monitor\n")
    app = make_app(**{"heartbeat.token_file": str(file)})
    at = from_address("192.0.2.7")

    for token in (first, second, TOKEN):
        app.post(
            "/heartbeat", headers={"Authorization": f"Bearer {token}"}, extra_environ=at, status=200
        )
    file.write_text(f"{second} renamed\n")
    app.post("/heartbeat", headers={"X-Heartbeat-Token": first}, extra_environ=at, status=401)
    app.post("/heartbeat", headers={"X-Heartbeat-Token": second}, extra_environ=at, status=200)

    sources = dbsession.scalars(select(DataFlowBeat.source).order_by(DataFlowBeat.id)).all()
    assert sources == [
        "192.0.2.7 cron",
        "192.0.2.7 uptime monitor",
        "192.0.2.7",
        "192.0.2.7 renamed",
    ]


def test_allow_get_permits_a_beat_by_get_with_a_token(
    make_app: MakeApp, dbsession: Session
) -> None:
    app = make_app(configure=operate, **{"heartbeat.allow_get": "true"})

    app.get("/heartbeat", headers=BEARER, status=200)
    app.post("/heartbeat", headers=BEARER, status=200)
    app.get("/heartbeat", status=401)
    app.get(f"/heartbeat?token={TOKEN}", status=401)
    for method in ("HEAD", "PUT", "OPTIONS"):
        refusal = app.request("/heartbeat", method=method, headers=BEARER, status=405)
        assert refusal.headers["Allow"] == "POST, GET"
    assert len(dbsession.scalars(select(DataFlowBeat)).all()) == 2


# ---------------------------------------------------------------------------------------------
# What a caller may prefer


def post_with(app: TestApp, prefer: str, status: int) -> Any:
    return app.post("/heartbeat", headers={**BEARER, "Prefer": prefer}, status=status)


def test_respond_async_answers_after_the_first_claim_while_the_beat_goes_on(
    make_app: MakeApp, held: Flow, dbsession: Session
) -> None:
    def later(_run: Run) -> int:
        return 2

    app = make_app(
        (held, {"name": "held"}),
        (later, {"name": "later"}),
        **{"heartbeat.workers": "1", "heartbeat.wait": "10m"},
    )

    response = post_with(app, "respond-async", 202)

    assert response.headers["Preference-Applied"] == "respond-async"
    assert response.json["flows_triggered"] == 1
    assert response.json["flows_in_progress"] == 1
    assert response.json["flows_due"] == 2
    assert held.inside.wait(SECONDS)
    held.go_on.set()
    for thread in threading.enumerate():
        if thread.name == "heartbeat-beat":
            thread.join(SECONDS)
    runs = dbsession.scalars(select(DataFlowRun.status)).all()
    assert runs == ["success", "success"]
    assert dbsession.scalars(select(DataFlowBeat.flows_succeeded)).one() == 2


def test_a_shorter_wait_answers_while_the_run_goes_on(
    make_app: MakeApp, held: Flow, dbsession: Session
) -> None:
    response = post_with(make_app((held, {"name": "held"})), "wait=2", 202)

    assert response.headers["Preference-Applied"] == "wait=2"
    assert response.json["flows_in_progress"] == 1
    assert dbsession.scalars(select(DataFlowRun.status)).one() == "in_progress"


def test_a_longer_wait_replaces_the_setting(make_app: MakeApp, held: Flow) -> None:
    app = make_app((held, {"name": "held"}), **{"heartbeat.wait": "0"})

    def let_go() -> None:
        assert held.inside.wait(SECONDS)
        held.go_on.set()

    helper = threading.Thread(target=let_go)
    helper.start()

    response = post_with(app, "wait=60", 200)

    helper.join(SECONDS)
    assert response.headers["Preference-Applied"] == "wait=60"
    assert response.json["flows_succeeded"] == 1


def test_the_representation_has_the_runs_of_this_beat(make_app: MakeApp) -> None:
    def good(_run: Run) -> int:
        return 1

    def bad(_run: Run) -> None:
        raise LookupError("no such bird, token=hunter2")

    def mute(_run: Run) -> None:
        raise LookupError

    app = make_app(good, bad, mute)

    response = post_with(app, "return=representation", 200)

    assert response.headers["Preference-Applied"] == "return=representation"
    runs = {run["flow"]: run for run in response.json["runs"]}
    assert set(runs) == {"good", "bad", "mute"}
    for run in runs.values():
        assert list(run) == [
            "id",
            "flow",
            "status",
            "scheduled_for",
            "started_at",
            "ended_at",
            "duration",
            "error",
        ]
        assert run["scheduled_for"] == "2026-03-01T12:00:00+00:00"
    assert (runs["good"]["status"], runs["good"]["error"]) == ("success", None)
    assert runs["bad"]["status"] == "failed"
    assert runs["bad"]["error"] == "LookupError: no such bird, token=***"
    assert (runs["mute"]["status"], runs["mute"]["error"]) == ("failed", "LookupError")
    assert post_with(app, "return=representation", 200).json["runs"] == []


def test_what_is_not_preferred_is_not_reported(make_app: MakeApp) -> None:
    response = post_with(make_app(), "return=minimal, handling=lenient", 200)

    assert "Preference-Applied" not in response.headers
    assert "runs" not in response.json


# ---------------------------------------------------------------------------------------------
# CSRF, in the application as it is served


def test_a_post_to_a_view_of_ones_own_needs_a_csrf_token_and_a_beat_needs_none(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("HEARTBEAT_TOKEN", TOKEN)
    made = Configurator.make_wsgi_app

    def with_a_form(config: Configurator) -> Any:
        """Add a form of the user's, as views.py would."""
        config.add_route("form", "/form")
        config.add_view(lambda _request: Response("taken"), route_name="form")
        return made(config)

    monkeypatch.setattr(Configurator, "make_wsgi_app", with_a_form)
    wsgi_app = main({})
    try:
        app = TestApp(wsgi_app)
        app.post("/form", status=400)
        app.post("/form", headers=BEARER, status=400)
        app.post("/heartbeat", headers=BEARER, status=200)
        app.set_cookie("csrf_token", "x" * 40)
        assert app.post("/form", {"csrf_token": "x" * 40}, status=200).text == "taken"
        for name in ("token", "Authorization", "auth_tkt", "session", "X-Heartbeat-Token"):
            app.set_cookie(name, TOKEN)
        app.post("/heartbeat", {"csrf_token": "x" * 40}, status=401)
    finally:
        wsgi_app.registry["heartbeat"].dispose()
        wsgi_app.registry["dbsession_factory"].kw["bind"].dispose()
