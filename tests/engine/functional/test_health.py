"""Health routes: what probes and uptime monitors see, who may ask, and what nobody learns."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import column, event, make_url, select, table, update
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat.db import make_engine

from ..conftest import FakeClock, MakeApp, heartbeat_of
from .operated import SECRET

Post = Callable[..., Any]
PATHS = ("/heartbeat/health/live", "/heartbeat/health", "/heartbeat/health/beats")


def without_database(app: TestApp) -> None:
    """Point an application to a server, or to a folder, that is not there."""
    heartbeat = heartbeat_of(app)
    url = heartbeat.engine.url
    lost = make_url("sqlite:////nowhere/at-all.sqlite") if not url.host else url.set(port=1)
    heartbeat.engine.dispose()
    heartbeat.engine = make_engine(lost)


def start_now(app: TestApp) -> None:
    """Say that the process has started now, by the clock of the test."""
    application: Any = app.app
    application.registry["heartbeat.started_at"] = heartbeat_of(app).clock.now()


@pytest.mark.parametrize("path", PATHS)
def test_all_is_well(make_app: MakeApp, post: Post, path: str) -> None:
    app = make_app(**SECRET)
    post(app)

    reply = app.get(path)

    assert reply.json == {"status": "ok"}
    assert reply.headers["Cache-Control"] == "no-store"
    assert app.head(path).body == b""


@pytest.mark.parametrize("path", PATHS)
def test_probes_need_no_token_and_come_from_any_address(make_app: MakeApp, path: str) -> None:
    app = make_app(**SECRET, **{"heartbeat.allowed_ips": "192.0.2.1"})
    start_now(app)

    assert app.get(path, extra_environ={"REMOTE_ADDR": "198.51.100.7"}).json == {"status": "ok"}
    assert app.post(path, status=405).headers["Allow"] == "GET, HEAD"


def test_a_liveness_probe_asks_no_database(make_app: MakeApp) -> None:
    app = make_app(**SECRET)
    statements: list[str] = []
    event.listen(
        heartbeat_of(app).engine, "before_cursor_execute", lambda *call: statements.append(call[2])
    )

    app.get("/heartbeat/health/live")

    assert statements == []


def test_a_database_that_is_away_fails_readiness_but_not_liveness(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(**SECRET)
    without_database(app)

    app.get("/heartbeat/health/live", status=200)
    for path in ("/heartbeat/health", "/heartbeat/health/beats"):
        reply = app.get(path, status=503)
        assert reply.content_type == "application/problem+json"
        assert int(reply.headers["Retry-After"]) > 0
        # The cause is for the log alone.
        assert "nowhere" not in reply.text
        assert "127.0.0.1" not in reply.text
    assert "the database is not ready" in caplog.text


def test_an_older_revision_is_not_ready(make_app: MakeApp, dbsession: Session) -> None:
    app = make_app(**SECRET)
    version = table("data_flow_version", column("version_num"))
    newest = dbsession.scalars(select(version.c.version_num)).one()
    dbsession.execute(update(version).values(version_num="0001"))
    dbsession.commit()
    try:
        assert "not ready" in app.get("/heartbeat/health", status=503).json["detail"]
    finally:
        dbsession.execute(update(version).values(version_num=newest))
        dbsession.commit()


def test_beats_that_stop_coming_are_reported(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app(**SECRET, **{"heartbeat.expected_every": "5m"})
    post(app)

    clock.advance(599)
    app.get("/heartbeat/health/beats", status=200)
    clock.advance(2)
    reply = app.get("/heartbeat/health/beats", status=503)
    post(app)

    assert reply.json["detail"] == "no beat has come for too long"
    app.get("/heartbeat/health/beats", status=200)


def test_without_any_beat_the_time_counts_from_the_start(
    make_app: MakeApp, clock: FakeClock
) -> None:
    app = make_app(**SECRET, **{"heartbeat.expected_every": "5m"})
    start_now(app)

    clock.advance(599)
    app.get("/heartbeat/health/beats", status=200)
    clock.advance(2)
    app.get("/heartbeat/health/beats", status=503)


def test_a_clock_that_was_set_back_is_no_silence(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app(**SECRET)
    post(app)
    clock.leap(-86_400)

    app.get("/heartbeat/health/beats", status=200)
