"""A flow holds SQLite's write lock: a few wait for it, and everybody is answered."""

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from data_flows.heartbeat.models import DataFlowRun

from . import served
from .conftest import Serve, Server, wait_until

WEB_THREADS = 8
BEATS = 100


def threads_of(server: Server) -> int:
    """Return how many threads the process has."""
    return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))


def files_of(server: Server) -> int:
    """Return how many files the process has open."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def held_for_a_new_reason(folder: Path) -> list[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """Return the flow that holds the lock, and one whose condition writes at each beat."""
    reasons = map(str, itertools.count())
    return [
        ("hold", served.hold(folder), {"every": "1s"}),
        ("held", served.write, {"every": "1s", "when": lambda _run: next(reasons)}),
    ]


@pytest.mark.parametrize("flows", ["hold", f"{__name__}:{held_for_a_new_reason.__name__}"])
def test_beats_leave_a_handful_of_threads_and_files_behind(
    serve: Serve, dbsession: Session, folder: Path, flows: str
) -> None:
    [server] = serve(flows, {"heartbeat.wait": "0s"})
    assert server.beat()["status"] == 202
    wait_until((folder / "inside").exists, "the flow never began")
    threads, files = threads_of(server), files_of(server)

    with ThreadPoolExecutor(4) as callers:
        replies = list(callers.map(lambda _: server.beat()["status"], range(BEATS)))

    assert set(replies) == {202}
    assert threads_of(server) - threads < 10
    assert files_of(server) - files < 20
    (folder / "released").touch()
    wait_until(lambda: dbsession.scalars(select(DataFlowRun.status)).first() == "success", "no end")


def test_operators_are_answered_503_and_leave_web_threads_for_others(
    serve: Serve, folder: Path
) -> None:
    [server] = serve("hold", {"heartbeat.wait": "0s"})
    server.beat()
    wait_until((folder / "inside").exists, "the flow never began")
    begun = threading.Barrier(WEB_THREADS + 1, timeout=30)

    def change(_number: int) -> int:
        begun.wait()
        status: int = server.operate("PATCH", "/flows/hold", every="2s")["status"]
        return status

    with ThreadPoolExecutor(WEB_THREADS) as operators:
        changes = [operators.submit(change, number) for number in range(WEB_THREADS)]
        begun.wait()
        wait_until(lambda: any(each.done() for each in changes), "none was answered")
        reading = server.operate("GET", "/flows")
        waiting = sum(not each.done() for each in changes)

    assert reading["status"] == 200
    assert [flow["name"] for flow in reading["flows"]] == ["hold"]
    # Those that got a place are still waiting for the lock; the others were sent away at once.
    assert 0 < waiting < WEB_THREADS - 1
    assert {each.result() for each in changes} == {503}
    (folder / "released").touch()
    wait_until(
        lambda: server.operate("PATCH", "/flows/hold", every="2s")["status"] == 200, "no end"
    )
