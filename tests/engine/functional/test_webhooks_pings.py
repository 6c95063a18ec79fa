"""Pings: of beats to `heartbeat.ping_url`, and of runs to the `ping_url` of their flow."""

import logging
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_flows.heartbeat import Run
from data_flows.heartbeat.optional.webhooks.sender import MAX_WAITING

from ..conftest import FakeClock, MakeApp, heartbeat_of
from ..entrances import both_entrances, refusal
from ..receiver import SECRET, Received, Receiver, receiving
from .alarmed import finish
from .conftest import SECONDS, Command

Post = Callable[..., Any]
WEBHOOKS = "data_flows.heartbeat.optional.webhooks"


def good(_run: Run) -> None:
    """Do nothing."""


def bad(_run: Run) -> None:
    """Fail."""
    message = "no such bird"
    raise LookupError(message)


def test_a_beat_is_reported_at_its_start_and_at_its_end(
    make_app: MakeApp, post: Post, receiver: Receiver
) -> None:
    app = make_app(good, **{"heartbeat.ping_url": receiver.url})

    post(app)
    post(app)

    assert receiver.kinds(4) == ["start", "success"] * 2
    one, same, other, _ = (uuid.UUID(request.rid) for request in receiver.requests)
    assert one == same != other


def test_a_beat_that_cannot_work_is_reported_with_the_reason(
    make_app: MakeApp,
    post: Post,
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'none.sqlite'}")
    app = make_app(good, **{"heartbeat.ping_url": receiver.url})

    post(app, status=503)

    assert receiver.kinds(2) == ["start", "fail"]
    assert receiver.requests[1].body.startswith("DatabaseNotReadyError: ")


@both_entrances
def test_each_run_of_a_flow_is_reported_with_its_error(
    make_app: MakeApp, post: Post, receiver: Receiver
) -> None:
    with receiving() as other:
        options = {"ping_url": f"{other.url}/?create=1"}
        app = make_app((good, {"ping_url": receiver.url}), (bad, options))

        post(app)

        assert receiver.kinds(2) == ["start", "success"]
        assert other.kinds(2) == ["start", "fail"]
        started, failed = other.requests
    assert started.rid == failed.rid != receiver.requests[0].rid
    assert failed.body == "LookupError: no such bird"


def test_a_failure_that_is_retried_is_no_failure_yet(
    make_app: MakeApp, post: Post, receiver: Receiver, clock: FakeClock
) -> None:
    options = {"ping_url": receiver.url, "retries": 1, "retry_delay": "1m"}
    app = make_app((bad, options))

    post(app)
    clock.advance(60)
    post(app)

    assert receiver.kinds(3) == ["start", "start", "fail"]


def test_a_run_with_a_timeout_is_reported_too(
    make_app: MakeApp, post: Post, receiver: Receiver
) -> None:
    app = make_app((bad, {"ping_url": receiver.url, "timeout": "1m"}))

    post(app)

    assert receiver.kinds(2) == ["start", "fail"]
    assert receiver.requests[1].body == "LookupError: no such bird"


def test_the_reply_to_a_beat_comes_while_the_receiver_is_silent(
    make_app: MakeApp, post: Post, receiver: Receiver
) -> None:
    answer = threading.Event()

    def hang(_received: Received) -> tuple[int, dict[str, str]]:
        assert answer.wait(SECONDS)
        return 200, {}

    receiver.reply = hang
    settings = {"heartbeat.ping_url": receiver.url}
    app = make_app((good, {"ping_url": receiver.url}), **settings)

    assert post(app).json["flows_succeeded"] == 1
    assert post(app).json["flows_due"] == 0

    receiver.wait_for(1)
    assert not answer.is_set()
    answer.set()
    finish(app)
    assert sorted(receiver.kinds(6)) == ["start"] * 3 + ["success"] * 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_retried_in_order(
    make_app: MakeApp, post: Post, receiver: Receiver, status: int
) -> None:
    answers = iter([status, status])
    receiver.reply = lambda _received: (next(answers, 200), {})
    app = make_app(good, **{"heartbeat.ping_url": receiver.url})

    post(app)

    assert receiver.kinds(4) == ["start", "start", "start", "success"]


def test_a_receiver_that_is_not_there_yet_gets_all_in_order(
    make_app: MakeApp, post: Post, receiver: Receiver
) -> None:
    port = receiver.server.server_port
    receiver.server.shutdown()
    receiver.server.server_close()
    app = make_app(good, **{"heartbeat.ping_url": receiver.url})

    post(app)
    with receiving(port) as restarted:
        assert restarted.kinds(2) == ["start", "success"]


@pytest.mark.parametrize("status", [400, 404, 410])
def test_a_refusal_is_not_retried_and_logged_once_without_the_url(
    make_app: MakeApp,
    post: Post,
    receiver: Receiver,
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver.reply = lambda _received: (status, {})
    app = make_app(good, **{"heartbeat.ping_url": receiver.url})

    post(app)
    post(app)
    finish(app)

    assert receiver.kinds(4) == ["start", "success"] * 2
    [line] = [each.getMessage() for each in caplog.records if each.name.startswith(WEBHOOKS)]
    refused = f"did not accept a message: it answered {status}"
    assert line == f"the receiver of heartbeat.ping_url {refused}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_server_is_refused_with_a_log_line(
    make_app: MakeApp,
    post: Post,
    receiver: Receiver,
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with receiving() as elsewhere:
        receiver.reply = lambda _received: (status, {"Location": elsewhere.url})
        app = make_app(good, **{"heartbeat.ping_url": receiver.url})
        post(app)
        finish(app)

        assert elsewhere.requests == []
        assert receiver.kinds(2) == ["start", "success"]
        assert "heartbeat.ping_url" in caplog.text
        assert "redirects to another server: refused" in caplog.text
        assert str(elsewhere.server.server_port) not in caplog.text


def test_a_redirect_within_the_server_is_followed(
    make_app: MakeApp, post: Post, receiver: Receiver
) -> None:
    def move(received: Received) -> tuple[int, dict[str, str]]:
        return (200, {}) if received.path == "/moved" else (308, {"Location": "/moved"})

    receiver.reply = move
    app = make_app(bad, (good, {"ping_url": receiver.url}))

    post(app)

    first, second, *_ = receiver.wait_for(4)
    assert (first.path, second.path) == (f"/{SECRET}/start", "/moved")


def test_a_redirect_in_a_circle_ends(
    make_app: MakeApp, post: Post, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.reply = lambda received: (307, {"Location": received.path})
    app = make_app(good, **{"heartbeat.ping_url": receiver.url})

    post(app)
    finish(app)

    assert "redirects in a circle" in caplog.text
    assert len(receiver.requests) == 2 * (3 + 1)


def test_messages_that_wait_are_limited_and_the_oldest_are_dropped_with_one_line(
    make_app: MakeApp, post: Post, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    answer = threading.Event()

    def hang(_received: Received) -> tuple[int, dict[str, str]]:
        assert answer.wait(SECONDS)
        return 200, {}

    receiver.reply = hang
    app = make_app((good, {"every": "1d"}), **{"heartbeat.ping_url": receiver.url})

    for _ in range(MAX_WAITING // 2 + 5):
        post(app)
    receiver.wait_for(1)
    answer.set()
    finish(app)

    # What was on its way, and the last ones.
    assert receiver.kinds(1)[-MAX_WAITING:] == ["start", "success"] * (MAX_WAITING // 2)
    assert len(receiver.requests) in {MAX_WAITING, MAX_WAITING + 1}
    assert caplog.text.count("does not keep up") == 1


def test_no_proxy_of_the_environment_is_used(
    make_app: MakeApp, post: Post, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    app = make_app(good, **{"heartbeat.ping_url": receiver.url})

    post(app)

    assert receiver.kinds(2) == ["start", "success"]


def test_the_userinfo_of_a_url_is_sent_as_basic_authorization(
    make_app: MakeApp, post: Post, receiver: Receiver
) -> None:
    url = receiver.url.replace("http://", "http://joe:p%40ss@")
    app = make_app(good, **{"heartbeat.ping_url": url})

    post(app)

    assert receiver.wait_for(1)[0].authorization == "Basic am9lOnBAc3M="


def test_the_pings_of_a_command_are_sent_before_it_ends(
    command: Command, receiver: Receiver
) -> None:
    result = command("beat", flows="good", **{"heartbeat.ping_url": receiver.url})

    assert result.exit_code == 0, result.output
    assert [request.path for request in receiver.requests] == [
        f"/{SECRET}/start",
        f"/{SECRET}",
    ]


def test_no_text_of_the_application_has_the_url(
    make_app: MakeApp, post: Post, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    def leak(_run: Run) -> None:
        raise ValueError(receiver.url)

    receiver.reply = lambda _received: (404, {"Location": receiver.url})
    app = make_app(
        (leak, {"ping_url": receiver.url}), **{"heartbeat.ping_url": f"{receiver.url}/beats"}
    )
    heartbeat = heartbeat_of(app)

    runs = post(app, Prefer="return=representation").json["runs"]
    finish(app)

    introspector: Any = app.app
    [flow] = introspector.registry.introspector.get_category("data flows")
    texts = [heartbeat.settings, heartbeat.flows, runs, dict(flow["introspectable"]), caplog.text]
    assert SECRET not in "".join(f"{text!r}{text}" for text in texts)


@both_entrances
@pytest.mark.parametrize("url", [f"ftp://example.org/{SECRET}", SECRET, f"//{SECRET}", 5, ""])
def test_an_invalid_url_stops_the_start_and_is_not_shown(make_app: MakeApp, url: object) -> None:
    line = refusal(make_app, good, ping_url=url)

    assert "ping_url is (not shown): " in line
    assert 'valid is, for example, ping_url="https://hc-ping.com/uuid"' in line
    assert SECRET not in line
