"""The local executor: never more runs at once than workers, and none that is lost."""

import threading
import time
import uuid

import pytest

from data_flows.heartbeat.executors import local
from data_flows.heartbeat.executors.local import LocalExecutor
from data_flows.heartbeat.models import RunStatus
from data_flows.heartbeat.run import ClaimedRun

from ..factories import claimed_run

SECONDS = 10


def free(executor: LocalExecutor) -> int:
    with executor.reserve() as room:
        return room.free


def start_one(executor: LocalExecutor, gate: threading.Event) -> None:
    with executor.reserve() as room:
        room.taken = 1
    executor.start(lambda _run: wait_for(gate), claimed_run(claim_id=str(uuid.uuid4())))


def wait_for(gate: threading.Event) -> RunStatus:
    gate.wait(SECONDS)
    return RunStatus.SUCCESS


def test_a_worker_is_taken_while_its_run_lasts() -> None:
    executor, gate = LocalExecutor(2), threading.Event()
    start_one(executor, gate)
    during, freed = free(executor), executor.freed

    gate.set()
    executor.wait_until_freed(freed, SECONDS)

    assert (during, free(executor)) == (1, 2)


def test_a_run_that_raises_gives_its_worker_back_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    executor = LocalExecutor(1)

    def fail(_run: ClaimedRun) -> RunStatus:
        raise ValueError

    with executor.reserve() as room:
        room.taken = 1
    executor.start(fail, claimed_run())
    executor.wait_until_freed(0, SECONDS)

    assert free(executor) == 1
    assert "run 1 broke off" in caplog.text


def test_a_claim_that_fails_takes_no_worker() -> None:
    executor = LocalExecutor(2)

    def claim() -> None:
        with executor.reserve():
            raise ValueError("no database")

    with pytest.raises(ValueError, match="no database"):
        claim()

    assert free(executor) == 2


def test_one_claim_at_a_time_gets_a_free_worker_and_keeps_nobody_waiting() -> None:
    executor = LocalExecutor(1)

    with executor.reserve() as room:
        during = free(executor)
        freed = executor.freed

    assert (room.free, during, free(executor)) == (1, 0, 1)
    # What another claim has left is noticed by those that wait for a worker.
    executor.wait_until_freed(freed, threading.TIMEOUT_MAX)


def test_a_worker_that_another_claim_gives_back_is_waited_for() -> None:
    executor, reserved, seen = LocalExecutor(1), threading.Event(), list[int]()

    def ask() -> None:
        reserved.set()
        with executor.reserve(wait=SECONDS) as room:
            seen.append(room.free)

    with executor.reserve():
        second = threading.Thread(target=ask)
        second.start()
        assert reserved.wait(SECONDS)
    second.join(SECONDS)

    assert seen == [1]


def test_waiting_ends_when_its_time_is_up() -> None:
    executor = LocalExecutor(1)
    began = time.monotonic()

    executor.wait_until_freed(executor.freed, 0.01)

    assert time.monotonic() - began < SECONDS


def test_what_was_freed_before_the_wait_began_is_not_missed() -> None:
    executor, gate = LocalExecutor(1), threading.Event()
    before = executor.freed
    start_one(executor, gate)
    gate.set()
    executor.wait_until_freed(before, SECONDS)

    executor.wait_until_freed(before, threading.TIMEOUT_MAX)

    assert executor.freed == before + 1


def run_at_once(executor: LocalExecutor, count: int) -> None:
    """Run so many runs that end at once."""
    for _ in range(count):
        gate, freed = threading.Event(), executor.freed
        gate.set()
        start_one(executor, gate)
        executor.wait_until_freed(freed, SECONDS)


def test_room_ahead_is_for_as_many_runs_as_have_just_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "AHEAD", float(SECONDS))
    executor = LocalExecutor(2, 3)
    seen = [room_ahead(executor)]
    for _ in range(2):
        run_at_once(executor, 2)
        seen.append(room_ahead(executor))

    assert seen == [2, 2 + 2, 2 + 3]
    assert free(executor) == 2


def room_ahead(executor: LocalExecutor) -> int:
    with executor.reserve(ahead=True) as room:
        return room.free


def test_there_is_no_room_ahead_of_workers_whose_runs_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "AHEAD", 0.0)
    executor, gate = LocalExecutor(1, 3), threading.Event()
    run_at_once(executor, 1)
    start_one(executor, gate)

    assert room_ahead(executor) == 0
    gate.set()


def test_runs_that_no_worker_has_begun_are_taken_back() -> None:
    executor, gate = LocalExecutor(1, 3), threading.Event()
    begun = [claimed_run(claim_id="begun"), claimed_run(id=2, claim_id="waits")]
    started = threading.Event()

    def work(_run: ClaimedRun) -> RunStatus:
        started.set()
        return wait_for(gate)

    for run in begun:
        executor.start(work, run)
    assert started.wait(SECONDS)

    assert executor.is_behind
    assert executor.take_back(lambda _run: None, 0) == []  # another beat's
    assert executor.take_back(work, SECONDS) == []
    assert executor.take_back(work, 0) == begun[1:]
    assert not executor.is_behind
    assert executor.runs_at_work() == begun  # until it is released
    executor.end("waits")
    assert executor.runs_at_work() == begun[:1]
    gate.set()


def test_a_run_for_which_a_worker_is_idle_is_not_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, run_thread = threading.Event(), threading.Thread.run

    def begin_late(thread: threading.Thread) -> None:
        gate.wait(SECONDS)
        run_thread(thread)

    monkeypatch.setattr(threading.Thread, "run", begin_late)
    executor, runs = LocalExecutor(1, 3), [claimed_run(claim_id=name) for name in "ab"]

    def work(_run: ClaimedRun) -> RunStatus:
        return RunStatus.SUCCESS

    for run in runs:
        executor.start(work, run)

    assert executor.take_back(work, 0) == runs[1:]
    gate.set()


def test_a_run_whose_end_is_not_recorded_is_still_at_work() -> None:
    executor, run, freed = LocalExecutor(1), claimed_run(), 0
    with executor.reserve() as room:
        room.taken = 1
        freed = executor.freed

    executor.start(lambda _run: None, run)
    executor.wait_until_freed(freed, SECONDS)
    assert (free(executor), executor.runs_at_work(), executor.busy.is_set()) == (1, [run], True)

    executor.end(run.claim_id)
    assert (executor.runs_at_work(), executor.busy.is_set()) == ([], False)


def thread_of_a_run(executor: LocalExecutor) -> threading.Thread:
    """Run something and return the thread that it had."""
    threads, freed = list[threading.Thread](), executor.freed
    with executor.reserve() as room:
        room.taken = 1

    def work(_run: ClaimedRun) -> RunStatus:
        threads.append(threading.current_thread())
        return RunStatus.SUCCESS

    executor.start(work, claimed_run())
    executor.wait_until_freed(freed, SECONDS)
    return threads[0]


def test_runs_do_not_keep_a_process_from_ending() -> None:
    assert thread_of_a_run(LocalExecutor(1)).daemon


def test_runs_that_follow_each_other_share_a_thread_which_ends_when_none_comes() -> None:
    executor = LocalExecutor(1)

    thread = thread_of_a_run(executor)
    assert thread_of_a_run(executor) is thread
    thread.join(SECONDS)

    assert not thread.is_alive()


def test_a_stopped_executor_has_no_free_worker_and_tells_what_is_at_work() -> None:
    executor, gate = LocalExecutor(2), threading.Event()
    start_one(executor, gate)

    [run] = executor.stop()

    assert (run.id, free(executor)) == (1, 0)
    assert (executor.stopped, executor.abandoned) == (True, False)
    gate.set()
    executor.wait_until_idle(SECONDS)
    assert executor.stop(abandon=True) == []
    assert (free(executor), executor.abandoned) == (0, False)


def test_who_waits_for_a_worker_is_woken_when_there_is_none_to_come() -> None:
    executor, gate = LocalExecutor(1), threading.Event()
    start_one(executor, gate)

    for abandon in (False, True):
        freed = executor.freed
        waiting = threading.Thread(
            target=executor.wait_until_freed, args=(freed, threading.TIMEOUT_MAX), daemon=True
        )
        waiting.start()
        executor.stop(abandon=abandon)
        waiting.join(SECONDS)
        assert not waiting.is_alive()

    assert executor.abandoned
    gate.set()


def test_a_claim_that_began_before_the_stop_is_waited_for() -> None:
    executor, gate, claiming = LocalExecutor(1), threading.Event(), threading.Event()
    ended: list[bool] = []

    def end(_run: ClaimedRun) -> RunStatus:
        ended.append(True)
        return RunStatus.SUCCESS

    def claim() -> None:
        with executor.reserve() as room:
            claiming.set()
            gate.wait(SECONDS)
            room.taken = room.free
        executor.start(end, claimed_run())

    threading.Thread(target=claim, daemon=True).start()
    assert claiming.wait(SECONDS)
    executor.stop()
    threading.Timer(0.1, gate.set).start()
    executor.wait_until_idle(SECONDS)

    assert ended == [True]


def test_waiting_for_runs_that_do_not_end_is_over_when_its_time_is_up() -> None:
    executor, gate = LocalExecutor(1), threading.Event()
    start_one(executor, gate)
    executor.stop()

    executor.wait_until_idle(0.01)

    [run] = executor.stop(abandon=True)
    assert (run.id, executor.abandoned) == (1, True)
    gate.set()
