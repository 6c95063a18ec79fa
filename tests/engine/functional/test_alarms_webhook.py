"""The webhook: its messages, and what an operator sees of an alarm in each place."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from data_flows.heartbeat.models import DataFlow

from ..conftest import FakeClock, MakeApp
from ..receiver import SECONDS, Received, Receiver
from .alarmed import Listener, Switch
from .conftest import Command
from .operated import SECRET, as_operator

Post = Callable[..., Any]
MINUTE, HOUR = 60, 3_600


@pytest.fixture
def switch() -> Switch:
    """Make the flow of this test: its name is "orders"."""
    return Switch()


@pytest.fixture
def hooked(
    make_app: MakeApp, post: Post, clock: FakeClock, receiver: Receiver, switch: Switch
) -> Callable[..., Listener]:
    """Make an application with the flow of this test and a webhook."""

    def make(**options: Any) -> Listener:
        listener = Listener(post, clock)
        settings = {"heartbeat.webhook_url": receiver.url, **SECRET}
        listener.app = make_app((switch.orders, options), **settings)
        return listener

    return make


Hooked = Callable[..., Listener]


def test_each_change_of_state_is_one_message_with_these_members(
    hooked: Hooked, receiver: Receiver, switch: Switch
) -> None:
    listener = hooked()
    listener.beat(4)
    switch.is_broken = False
    listener.beat(2)

    failing, recovered = receiver.wait_for(2)
    assert failing.content_type == "application/json"
    run_id = failing.json()["run_id"]
    assert failing.json() == {
        "event": "failing",
        "flow": "orders",
        "state": "failing",
        "since": "2026-03-01T12:15:00+00:00",
        "reminder": False,
        "run_id": run_id,
        "error_type": "LookupError",
        "error_message": "no such bird",
        "path": "/heartbeat/flows/orders",
        "text": "orders is failing: 3 failures in a row, the last one in run "
        f"{run_id}: LookupError: no such bird",
    }
    assert recovered.json() == {
        **dict.fromkeys(failing.json()),
        "event": "recovered",
        "flow": "orders",
        "state": "ok",
        "since": "2026-03-01T12:15:00+00:00",
        "reminder": False,
        "path": "/heartbeat/flows/orders",
        "text": "orders has recovered: it was failing since 2026-03-01 12:15 UTC",
    }
    assert len(receiver.requests) == 2


def test_an_error_mentions_nobody_shows_no_secret_and_is_limited(
    make_app: MakeApp, post: Post, receiver: Receiver
) -> None:
    def orders(_run: object) -> None:
        message = f"<!channel> @all password=hunter22 {receiver.url}\n" + "long " * 10_000
        raise LookupError(message)

    app = make_app((orders, {"alert_after": 1}), **{"heartbeat.webhook_url": receiver.url})
    post(app)

    [message] = receiver.wait_for(1)
    members = message.json()
    assert "\u2039!channel\u203a @\u200ball" in members["text"]
    assert "hunter22" not in message.body
    assert receiver.url not in message.body
    assert len(members["text"]) < 520
    assert "\n" not in members["text"]
    assert len(members["error_message"]) <= 1_000


def test_the_reply_to_a_beat_comes_while_the_webhook_is_silent(
    hooked: Hooked, receiver: Receiver, post: Post
) -> None:
    answer = threading.Event()

    def hang(_received: Received) -> tuple[int, dict[str, str]]:
        assert answer.wait(SECONDS)
        return 200, {}

    receiver.reply = hang
    listener = hooked(alert_after=1)

    assert post(listener.app).json["flows_failed"] == 1
    receiver.wait_for(1)
    assert post(listener.app).json["flows_due"] == 0

    assert not answer.is_set()
    answer.set()
    listener.beat()


def test_a_command_reports_the_alarm_before_it_ends(command: Command, receiver: Receiver) -> None:
    settings = {"heartbeat.webhook_url": receiver.url}
    for _ in range(3):
        command("run", "bad", flows="bad", **settings)

    assert receiver.states(1) == [("bad", "failing")]


def test_where_a_stale_flow_is_seen(
    hooked: Hooked, receiver: Receiver, dbsession: Session, clock: FakeClock, switch: Switch
) -> None:
    switch.is_broken = False
    listener = hooked(every="1h", expect_success_within="2h")
    call = as_operator(listener.app)
    listener.beat(every=0)
    # Nothing fails: its runs do not happen.
    far = update(DataFlow).values(next_run_at=clock.now().replace(year=2030))
    dbsession.execute(far)
    dbsession.commit()

    listener.beat(2, every=59 * MINUTE)
    before = call("GET", "/flows/orders", status=200).json
    assert receiver.requests == []
    listener.beat(every=2 * MINUTE)
    after = call("GET", "/flows/orders", status=200).json

    assert (before["stale"], after["stale"]) == (False, True)
    assert before["why"].startswith("Not due until 2030")
    assert after["why"].startswith(
        "Stale: no success since 2026-03-01 12:00:00 UTC, but one is expected within 2h. Not due"
    )
    assert receiver.states(1) == [("orders", "stale")]
    listener.app.get("/heartbeat/health/beats", status=200)


def test_where_a_failing_flow_is_seen(hooked: Hooked, receiver: Receiver) -> None:
    listener = hooked()
    call = as_operator(listener.app)

    listener.beat(2)
    before = call("GET", "/flows/orders", status=200).json["why"]
    listener.beat()
    after = call("GET", "/flows/orders", status=200).json["why"]

    assert before.startswith("Not due until")
    assert after.startswith("Failing: 3 failures in a row. Not due until")
    assert receiver.states(1) == [("orders", "failing")]


def test_where_a_scheduler_is_seen_that_calls_no_more(
    hooked: Hooked, receiver: Receiver, clock: FakeClock, switch: Switch
) -> None:
    switch.is_broken = False
    listener = hooked(expect_success_within="1h")
    call = as_operator(listener.app)
    listener.beat(every=0)

    clock.advance(9 * MINUTE)
    assert "No beat" not in call("GET", "/flows/orders", status=200).json["why"]
    listener.app.get("/heartbeat/health/beats", status=200)
    clock.advance(2 * MINUTE)
    why = call("GET", "/flows/orders", status=200).json["why"]
    assert why == "No beat has come for 11 minutes: check whether the scheduler still calls."
    listener.app.get("/heartbeat/health/beats", status=503)
    clock.advance(HOUR)
    why = call("GET", "/flows/orders", status=200).json["why"]
    assert why.startswith("Stale: no success since")
    assert why.endswith("No beat has come for 71 minutes: check whether the scheduler still calls.")
    # Nobody has checked it. The next beat runs the flow, and finds that all is well.
    listener.beat(every=0)
    assert receiver.requests == []


def test_the_command_why_shows_the_alarm(command: Command) -> None:
    command("beat", flows="good bad")
    for _ in range(2):
        command("run", "bad", flows="good bad")

    result = command("why", "bad", "--json", flows="good bad")

    assert json.loads(result.output)["why"].startswith("Failing: 3 failures in a row.")
