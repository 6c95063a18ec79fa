"""After twenty refused attempts in a minute, their address has to wait, and no other one."""

import sys
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from data_flows.heartbeat.models import DataFlowBeat
from data_flows.heartbeat.optional import throttle

from ..conftest import TOKEN, MakeApp
from .door import TOKEN as DOOR_TOKEN
from .door import Door, Reply, serve

BEARER = {"Authorization": f"Bearer {TOKEN}"}
WRONG = {"Authorization": "Bearer hunter2hunter2"}
LARGE = "x" * 70_000


def from_address(address: str) -> dict[str, str]:
    return {"REMOTE_ADDR": address}


def test_the_first_twenty_refusals_of_an_address_are_401_and_the_next_has_to_wait(
    make_app: MakeApp, dbsession: Session
) -> None:
    app = make_app()
    guesser, neighbour = from_address("192.0.2.1"), from_address("192.0.2.2")

    for _ in range(20):
        app.post("/heartbeat", headers=WRONG, extra_environ=guesser, status=401)
    reported = app.post("/heartbeat", headers=WRONG, extra_environ=guesser, status=429)

    assert 1 <= int(reported.headers["Retry-After"]) <= 60
    assert reported.json["error"] == "Too Many Requests"
    app.post("/heartbeat", headers=WRONG, extra_environ=neighbour, status=401)
    assert dbsession.scalars(select(DataFlowBeat)).all() == []
    app.post("/heartbeat", headers=BEARER, extra_environ=guesser, status=200)


def test_a_valid_token_never_has_to_wait_and_counts_for_nothing(make_app: MakeApp) -> None:
    app = make_app()

    for _ in range(25):
        app.post("/heartbeat", headers=BEARER, status=200)
    for _ in range(20):
        app.post("/heartbeat", headers=WRONG, status=401)


def test_what_is_refused_before_and_after_the_token_does_not_have_to_wait(
    make_app: MakeApp,
) -> None:
    app = make_app()
    for _ in range(20):
        app.post("/heartbeat", headers=WRONG, status=401)

    app.post("/heartbeat", LARGE, headers=WRONG, status=429)
    app.put("/heartbeat", headers=WRONG, status=405)
    app.post("/heartbeat", LARGE, headers=BEARER, status=413)


def test_behind_a_proxy_each_address_waits_for_itself(tmp_path: Path) -> None:
    def call(door: Door, token: str, address: str) -> Reply:
        lines = ["POST /heartbeat HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}"]
        request = [*lines, f"X-Forwarded-For: {address}", "Connection: close", "", ""]
        return door.send("\r\n".join(request).encode())

    with serve(tmp_path, trusted_proxies="127.0.0.1") as door:
        door.wait()
        refusals = [call(door, "guessed", "192.0.2.99") for _ in range(22)]

        assert [reply.status for reply in refusals] == [401] * 20 + [429] * 2
        assert 1 <= int(refusals[-1].headers["retry-after"]) <= 60
        assert refusals[-1].headers["cache-control"] == "no-store"
        assert door.log().count("refused a call from 192.0.2.99: 401 ") == 20
        assert call(door, "guessed", "192.0.2.98").status == 401
        assert door.counts() == (0, 0)
        assert call(door, DOOR_TOKEN, "192.0.2.99").status == 200

        network = [call(door, "guessed", f"2001:db8:0:1::{n:x}:{n:x}") for n in range(1, 23)]
        assert [reply.status for reply in network] == [401] * 20 + [429] * 2
        assert call(door, "guessed", "2001:db8:0:2::1").status == 401
        assert call(door, DOOR_TOKEN, "2001:db8:0:1::1:1").status == 200


def test_without_its_package_no_caller_has_to_wait(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "limits"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, throttle.__name__)
    monkeypatch.setitem(sys.modules, "limits", None)

    app = make_app()

    for _ in range(21):
        app.post("/heartbeat", headers=WRONG, status=401)
    app.post("/heartbeat", headers=BEARER, status=200)
    assert "the package limits is not installed" in caplog.text
