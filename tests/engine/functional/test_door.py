"""The callers that may beat, and the replies to all others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyramid.authorization import Deny, Everyone
from pyramid.config import Configurator
from sqlalchemy import event, make_url, select
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import migrations
from data_flows.heartbeat.models import DataFlowBeat

from ..conftest import TOKEN, FakeClock, MakeApp, heartbeat_of
from .conftest import settle

Post = Callable[..., Any]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """Make a token file with two tokens."""
    file = tmp_path / "beat.token"
    file.write_text("the-first-token-of-all\n\n  the-second-token-of-all  \n")
    return file


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# ---------------------------------------------------------------------------------------------
# What opens


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {TOKEN}"},
        {"Authorization": f"bearer {TOKEN}"},
        {"Authorization": f"BEARER   {TOKEN}  "},
        {"X-Heartbeat-Token": TOKEN},
        {"X-Heartbeat-Token": f"  {TOKEN} "},
        {"Authorization": "Basic am9lOmh1bnRlcjI=", "X-Heartbeat-Token": TOKEN},
    ],
)
def test_a_valid_token_opens_in_either_header(make_app: MakeApp, headers: dict[str, str]) -> None:
    make_app().post("/heartbeat", headers=headers, status=200)


def test_every_token_of_the_file_is_valid(make_app: MakeApp, token_file: Path) -> None:
    app = make_app(**{"heartbeat.token_file": str(token_file)})

    for token in ("the-first-token-of-all", "the-second-token-of-all", TOKEN):
        app.post("/heartbeat", headers=bearer(token), status=200)


def test_a_token_file_that_is_replaced_is_read_again(make_app: MakeApp, token_file: Path) -> None:
    app = make_app(**{"heartbeat.token_file": str(token_file)})
    app.post("/heartbeat", headers=bearer("the-first-token-of-all"), status=200)

    replacement = token_file.with_name("new.token")
    replacement.write_text("the-other-token-of-all\n\n  the-second-token-of-all  \n")
    replacement.replace(token_file)

    app.post("/heartbeat", headers=bearer("the-first-token-of-all"), status=401)
    app.post("/heartbeat", headers=bearer("the-other-token-of-all"), status=200)


def test_a_token_in_letters_beyond_ascii_is_compared_by_its_bytes(
    make_app: MakeApp, tmp_path: Path
) -> None:
    file = tmp_path / "beat.token"
    file.write_text("ein-langer-schlüssel-🔑\n", "utf-8")
    app = make_app(**{"heartbeat.token_file": str(file)})
    # A server hands each byte of a header over as one character.
    sent = "Bearer ein-langer-schlüssel-🔑".encode().decode("latin-1")

    app.post("/heartbeat", extra_environ={"HTTP_AUTHORIZATION": sent}, status=200)


def test_a_token_file_as_windows_editors_write_it_is_read(
    make_app: MakeApp, tmp_path: Path
) -> None:
    file = tmp_path / "beat.token"
    file.write_bytes(b"\xef\xbb\xbfthe-first-token-of-all\r\n")
    app = make_app(**{"heartbeat.token_file": str(file)})

    app.post("/heartbeat", headers=bearer("the-first-token-of-all"), status=200)


def test_a_token_of_the_environment_may_end_with_a_new_line(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEARTBEAT_TOKEN", "from-a-secret-file\n")

    make_app().post("/heartbeat", headers=bearer("from-a-secret-file"), status=200)


def test_an_application_that_denies_all_accepts_the_token(make_app: MakeApp) -> None:
    class Nobody:
        def permits(self, *_ignored: object) -> Any:
            return Deny, Everyone

        def identity(self, _request: object) -> None:
            return None

    def deny(config: Configurator) -> None:
        config.set_security_policy(Nobody())
        config.set_default_permission("never")
        config.set_default_csrf_options(require_csrf=True)

    app = make_app(configure=deny)

    app.post("/heartbeat", headers=bearer(TOKEN), status=200)
    app.post("/heartbeat", status=401)


# ---------------------------------------------------------------------------------------------
# What stays shut


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN} {TOKEN}",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer\t{TOKEN}",
        "Bearer \xff\xfe\x80",
        "Bearer schlüssel",
        "Bearer \x01\x7f",
        "Bearer " + "x" * 100_000,
        "\xa0" * 50,
        "Bearer \U0001f511",
    ],
)
@pytest.mark.parametrize("header", ["HTTP_AUTHORIZATION", "HTTP_X_HEARTBEAT_TOKEN"])
def test_any_other_bytes_in_a_header_are_refused(
    make_app: MakeApp, header: str, value: str
) -> None:
    if header == "HTTP_X_HEARTBEAT_TOKEN" and value == TOKEN:
        value = "x" + TOKEN

    response = make_app().post("/heartbeat", extra_environ={header: value}, status=401)

    assert response.json["error"] == "Unauthorized"


def test_a_refusal_without_a_token_is_a_problem_that_states_how_to_send_one(
    make_app: MakeApp,
) -> None:
    response = make_app().post("/heartbeat", status=401)

    assert response.content_type == "application/problem+json"
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert response.headers["Cache-Control"] == "no-store"
    assert {**response.json, "detail": ""} == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "error": "Unauthorized",
        "detail": "",
    }
    assert "Authorization: Bearer" in response.json["detail"]


def test_a_cookie_never_authorises_a_beat(make_app: MakeApp) -> None:
    app = make_app()
    for name in ("token", "Authorization", "X-Heartbeat-Token", "session"):
        app.set_cookie(name, TOKEN)

    app.post("/heartbeat", status=401)


def test_a_token_in_the_url_or_the_body_is_refused(make_app: MakeApp) -> None:
    app = make_app()

    app.post(f"/heartbeat?token={TOKEN}", {"token": TOKEN}, status=401)


def test_a_refusal_is_logged_without_the_secret(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    make_app().post(
        "/heartbeat",
        headers=bearer("hunter2"),
        extra_environ={"REMOTE_ADDR": "192.0.2.7"},
        status=401,
    )

    assert "192.0.2.7" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("content", [None, "", "\n \n", "\x00\xff"])
def test_without_any_token_the_door_states_how_to_set_one_up(
    make_app: MakeApp, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "beat.token"
    if content is not None:
        file.write_text(content, "latin-1")
    app = make_app(**{"heartbeat.token": "", "heartbeat.token_file": str(file)})

    response = app.post("/heartbeat", headers=bearer("x"), status=503)

    assert response.headers["Retry-After"].isdecimal()
    assert response.headers["Cache-Control"] == "no-store"
    assert response.json["error"] == "Service Unavailable"
    assert "token_file" in response.json["detail"]
    assert "make setup" in response.json["detail"]


def test_a_blank_token_is_not_valid(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTBEAT_TOKEN", " \n")

    make_app().post("/heartbeat", headers=bearer(" "), status=503)


@pytest.mark.parametrize("reload_templates", ["true", "false"])
def test_a_token_file_that_becomes_weak_keeps_its_last_token(
    make_app: MakeApp, tmp_path: Path, reload_templates: str
) -> None:
    file = tmp_path / "beat.token"
    file.write_text("a-token-that-nobody-guesses\n")
    settings = {"heartbeat.token_file": str(file), "pyramid.reload_templates": reload_templates}
    app = make_app(**{"heartbeat.token": "", **settings})
    app.post("/heartbeat", headers=bearer("a-token-that-nobody-guesses"), status=200)

    file.write_text("x\n")

    app.post("/heartbeat", headers=bearer("x"), status=401)
    app.post("/heartbeat", headers=bearer("a-token-that-nobody-guesses"), status=200)


def test_the_door_opens_when_a_missing_token_file_appears(
    make_app: MakeApp, tmp_path: Path
) -> None:
    file = tmp_path / "beat.token"
    app = make_app(**{"heartbeat.token": "", "heartbeat.token_file": str(file)})
    app.post("/heartbeat", headers=bearer("a-token-that-comes-late"), status=503)

    file.write_text("a-token-that-comes-late\n")

    app.post("/heartbeat", headers=bearer("a-token-that-comes-late"), status=200)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods_name_the_one_that_works(make_app: MakeApp, method: str) -> None:
    app = make_app()

    response = app.request("/heartbeat", method=method, headers=bearer(TOKEN), status=405)

    assert response.headers["Allow"] == "POST"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.content_type == "application/problem+json"


def test_a_method_is_refused_before_the_token_is_asked_for(make_app: MakeApp) -> None:
    make_app().get("/heartbeat", status=405)


@pytest.mark.parametrize(("size", "status"), [(0, 200), (64 * 1024, 200), (64 * 1024 + 1, 413)])
def test_a_body_of_64_kib_at_most_is_taken_and_ignored(
    make_app: MakeApp, size: int, status: int
) -> None:
    response = make_app().post("/heartbeat", "{" * size, headers=bearer(TOKEN), status=status)

    assert response.headers["Cache-Control"] == "no-store"


def test_a_large_body_without_a_token_is_not_looked_at(make_app: MakeApp) -> None:
    make_app().post("/heartbeat", "{" * 70_000, status=401)


def test_an_open_door_is_warned_of_at_start(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    make_app(**{"heartbeat.require_token": "false"})

    assert "heartbeat.require_token" in caplog.text


def test_the_sender_of_a_beat_is_the_peer_and_not_what_a_header_claims(
    make_app: MakeApp, dbsession: Session
) -> None:
    make_app().post(
        "/heartbeat",
        headers={**bearer(TOKEN), "X-Forwarded-For": "203.0.113.9"},
        extra_environ={"REMOTE_ADDR": "192.0.2.7"},
    )

    assert dbsession.scalars(select(DataFlowBeat.source)).all() == ["192.0.2.7"]


# ---------------------------------------------------------------------------------------------
# The reply


def test_the_reply_has_these_members_and_no_others(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    def takes_a_moment(_run: object) -> None:
        clock.advance(0.25)

    response = post(make_app(takes_a_moment))

    assert response.content_type == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.json == {
        "timestamp": "2026-03-01T12:00:00+00:00",
        "flows_due": 1,
        "flows_triggered": 1,
        "flows_succeeded": 1,
        "flows_failed": 0,
        "flows_in_progress": 0,
        "runs_reaped": 0,
        "duration": 0.25,
    }
    assert len(response.body) < 1024


def test_the_row_of_a_beat_states_what_its_reply_said(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    def fail(_run: object) -> None:
        raise ValueError

    reply = post(make_app(fail)).json

    row = dbsession.scalars(select(DataFlowBeat)).one()
    assert row.received_at.isoformat() == reply.pop("timestamp")
    assert {name: getattr(row, name) for name in reply} == reply


# ---------------------------------------------------------------------------------------------
# Problems


@pytest.fixture
def elsewhere(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], TestApp]:
    """Make an application on another database than that of the tests."""

    def make(url: str) -> TestApp:
        monkeypatch.setenv("DATABASE_URL", url)
        return make_app((lambda _run: None, {"name": "none"}))

    return make


def test_a_database_that_is_missing_is_reported_with_the_solution(
    elsewhere: Callable[[str], TestApp], database_url: str, tmp_path: Path, post: Post
) -> None:
    url = make_url(database_url).set(
        database="no_such_database",
        password="hunter2",  # noqa: S106 - no secret
    )
    if url.get_backend_name() == "sqlite":
        url = make_url(f"sqlite:///{tmp_path / 'no_such_database' / 'app.sqlite'}")
    app = elsewhere(url.render_as_string(hide_password=False))

    response = post(app, status=503)

    assert response.content_type == "application/problem+json"
    assert response.headers["Retry-After"].isdecimal()
    assert response.headers["Cache-Control"] == "no-store"
    assert "no_such_database" in response.json["detail"]
    assert "hunter2" not in response.text
    assert "sqlalchemy.url or DATABASE_URL" in response.json["detail"]


def test_a_database_that_is_not_migrated_is_reported_with_the_command(
    elsewhere: Callable[[str], TestApp], tmp_path: Path, post: Post
) -> None:
    app = elsewhere(f"sqlite:///{tmp_path / 'fresh.sqlite'}")

    response = post(app, status=503)

    assert response.headers["Retry-After"].isdecimal()
    assert "heartbeat migrate" in response.json["detail"]


def test_a_database_is_used_as_soon_as_it_is_migrated(
    elsewhere: Callable[[str], TestApp], tmp_path: Path, post: Post
) -> None:
    app = elsewhere(f"sqlite:///{tmp_path / 'fresh.sqlite'}")
    post(app, status=503)

    migrations.upgrade(heartbeat_of(app).engine)

    assert post(app, status=200).json["flows_due"] == 1


def test_a_problem_of_the_database_is_reported_without_sql_and_values(
    elsewhere: Callable[[str], TestApp],
    tmp_path: Path,
    post: Post,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = elsewhere(f"sqlite:///{tmp_path / 'broken.sqlite'}")
    engine = heartbeat_of(app).engine
    migrations.upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE data_flow_beats")

    response = post(app, status=500)

    assert response.content_type == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.json["error"] == "Internal Server Error"
    for part in ("INSERT", "data_flow_beats", "127.0.0.1", "sqlite"):
        assert part not in response.text
    assert "data_flow_beats" in caplog.text
    assert TOKEN not in caplog.text


def test_a_problem_of_the_program_is_reported_without_its_words(
    make_app: MakeApp, clock: FakeClock, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped() -> float:
        message = f"the clock of {TOKEN} stopped, hunter2"
        raise RuntimeError(message)

    app = make_app()
    monkeypatch.setattr(clock, "monotonic", stopped)

    response = post(app, status=500)

    assert "RuntimeError" in response.json["detail"]
    assert "hunter2" not in response.text
    assert TOKEN not in response.text


def test_a_server_that_was_away_for_a_moment_is_answered_with_call_again(
    make_app: MakeApp, post: Post
) -> None:
    app = make_app()
    post(app, status=200)
    settle()
    engine = heartbeat_of(app).engine
    engine.dispose()
    away = [engine.dialect.loaded_dbapi.OperationalError("it is starting up")]

    # Not do_connect: on MySQL and MariaDB, a listener of the engine's own connects before this one.
    @event.listens_for(engine, "connect")
    def refuse_once(*_ignored: object) -> None:
        if away:
            raise away.pop()

    response = post(app, status=503)

    assert response.headers["Retry-After"].isdecimal()
    assert "it is starting up" in response.json["detail"]
    post(app, status=200)


def test_a_broken_database_file_is_reported_as_one(
    elsewhere: Callable[[str], TestApp], tmp_path: Path, post: Post
) -> None:
    file = tmp_path / "broken.sqlite"
    file.write_bytes(b"this is not a database " * 100)

    response = post(elsewhere(f"sqlite:///{file}"), status=503)

    assert "file is not a database" in response.json["detail"]
