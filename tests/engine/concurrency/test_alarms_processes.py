"""Alarms of several processes: one message for each change of state, and no way to hold one up."""

import signal
import threading
from pathlib import Path
from typing import Any

from data_flows.heartbeat import Run

from ..receiver import Received, Receiver
from .conftest import SECONDS, Serve, at_once, wait_until

FLOWS = f"{__name__}:flows"
NUMBER = 8


def flows(_folder: Path) -> list[tuple[str, Any, dict[str, Any]]]:
    """Return flows that fail, and flows that are never run."""

    def fail(_run: Run) -> None:
        message = "no such bird"
        raise LookupError(message)

    often: dict[str, Any] = {"every": "1s", "alert_after": 2}
    held = {"every": "1s", "expect_success_within": "2s", "when": lambda _run: False}
    return [
        *((f"bad {number}", fail, often) for number in range(NUMBER)),
        *((f"stale {number}", fail, held) for number in range(NUMBER)),
    ]


def test_each_change_of_state_is_one_message_of_all_processes(
    serve: Serve, receiver: Receiver
) -> None:
    settings = {"heartbeat.webhook_url": receiver.url}
    servers = serve(FLOWS, settings, settings)
    expected = {
        (f"{state} {number}", {"bad": "failing"}.get(state, state))
        for state in ("bad", "stale")
        for number in range(NUMBER)
    }

    def is_complete() -> bool:
        at_once(*(server.beat for server in servers))
        return len(receiver.requests) >= len(expected)

    wait_until(is_complete, "not all alarms came")
    for _ in range(5):
        at_once(*(server.beat for server in servers))
    states = receiver.states(len(expected))

    assert sorted(states) == sorted(expected)


def test_a_process_that_is_killed_leaves_its_alarms_to_another(
    serve: Serve, receiver: Receiver
) -> None:
    [silent] = serve(FLOWS, {})
    for _ in range(3):
        silent.beat()
    silent.kill()
    [other] = serve(FLOWS, {"heartbeat.webhook_url": receiver.url})

    def all_came() -> bool:
        other.beat()
        return len(receiver.requests) >= 2 * NUMBER

    wait_until(all_came, "not all alarms came")
    assert len(set(receiver.states(2 * NUMBER))) == 2 * NUMBER


def test_a_receiver_that_hangs_keeps_no_process_from_its_end(
    serve: Serve, receiver: Receiver
) -> None:
    opened = threading.Event()

    def hang(_received: Received) -> tuple[int, dict[str, str]]:
        opened.wait(SECONDS)
        return 200, {}

    receiver.reply = hang
    urls = {"heartbeat.webhook_url": receiver.url, "heartbeat.ping_url": receiver.url}
    [server] = serve(FLOWS, {**urls, "heartbeat.shutdown_grace": "1s"})

    server.beat()
    receiver.wait_for(1)
    server.tell(signal.SIGTERM)

    assert server.process.wait(SECONDS) == 0
    assert not opened.is_set()
    opened.set()
