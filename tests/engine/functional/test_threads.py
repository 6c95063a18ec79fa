"""The system refuses new threads: claimed runs are still executed and recorded."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlowRun

from ..conftest import FakeClock, MakeApp, heartbeat_of
from .conftest import settle

Post = Callable[..., Any]
Refuse = Callable[..., None]
EVERY = 300
NAMES = ["heartbeat-beat", "heartbeat-worker", "heartbeat-leases"]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Make the system refuse threads of these names, so many times each."""
    start = threading.Thread.start

    def refuse(*names: str, times: int) -> None:
        left = dict.fromkeys(names, times)

        def start_or_fail(thread: threading.Thread) -> None:
            if left.get(thread.name, 0):
                left[thread.name] -= 1
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_or_fail)

    return refuse


@pytest.mark.parametrize("names", [*([name] for name in NAMES), NAMES], ids=[*NAMES, "all"])
def test_runs_that_are_claimed_are_executed_without_a_thread_of_their_own(
    make_app: MakeApp, post: Post, dbsession: Session, refuse: Refuse, names: list[str]
) -> None:
    def work(run: Run) -> int:
        return run.id

    app = make_app(*((work, {"name": f"flow {number}"}) for number in range(3)))
    refuse(*names, times=1_000)

    assert post(app).json["flows_succeeded"] == 3
    assert dbsession.scalars(select(DataFlowRun.status)).all() == ["success"] * 3


def test_leases_are_renewed_as_soon_as_there_is_a_thread_again(
    make_app: MakeApp, post: Post, clock: FakeClock, refuse: Refuse
) -> None:
    seen = list[bool]()

    def work(_run: Run) -> None:
        keeper = heartbeat_of(app).leases.keeper
        seen.append(keeper is not None and keeper.is_alive())

    app = make_app((work, {"every": EVERY}))
    refuse("heartbeat-leases", times=1)
    for _ in range(2):
        assert post(app).json["flows_succeeded"] == 1
        clock.advance(EVERY)

    assert seen == [False, True]


def test_a_beat_starts_the_renewal_of_a_run_that_is_at_work(
    make_app: MakeApp, post: Post, refuse: Refuse
) -> None:
    at_work, go_on = threading.Event(), threading.Event()

    def work(_run: Run) -> None:
        at_work.set()
        assert go_on.wait(30)

    app = make_app(work)
    refuse("heartbeat-leases", times=1)
    post(app, status=202, Prefer="wait=0")
    assert at_work.wait(30)
    leases = heartbeat_of(app).leases
    before = leases.keeper

    post(app, status=200)

    assert before is None
    assert leases.keeper is not None
    assert leases.keeper.is_alive()
    go_on.set()
    settle()
