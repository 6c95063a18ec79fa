"""The option `--every` of `heartbeat beat`: its values, its rhythm, and beats that fail."""

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from sqlalchemy.exc import OperationalError
from webtest import TestApp

from data_flows.heartbeat.errors import DatabaseNotReadyError
from data_flows.heartbeat.events import BeatReport
from data_flows.heartbeat.optional.scheduler import rhythm
from data_flows.heartbeat.optional.scheduler.rhythm import Scheduler

from ..conftest import FakeClock, MakeApp, heartbeat_of
from .conftest import Command, good

EVERY = 60


class Stop(threading.Event):
    """Requests a stop after some waits. They move a clock instead of waiting."""

    def __init__(self, clock: FakeClock, waits: int) -> None:
        super().__init__()
        self.clock, self.waits = clock, waits

    def wait(self, timeout: float | None = None) -> bool:
        """Move the clock; return whether to stop."""
        self.clock.advance(timeout or 0.0)
        self.waits -= 1
        return self.waits < 0 or self.is_set()


@pytest.fixture
def scheduled(make_app: MakeApp, clock: FakeClock) -> Callable[[int], tuple[Scheduler, TestApp]]:
    """Make a scheduler that stops after some beats, of an application with the flow `good`."""

    def make(beats: int) -> tuple[Scheduler, TestApp]:
        app = make_app(good)
        return Scheduler(heartbeat_of(app), "a test", EVERY, Stop(clock, beats)), app

    return make


Scheduled = Callable[[int], tuple[Scheduler, TestApp]]


@pytest.mark.parametrize("value", ["0", "abc", "-5m", "1.5s", "", "5 minutes"])
def test_an_invalid_interval_is_one_line(command: Command, value: str) -> None:
    result = command("beat", "--every", value)

    [line] = result.stderr.splitlines()
    assert result.exit_code == 1
    assert line.startswith(f"Error: --every: {value!r} is not a valid interval: write ")


def test_a_beat_without_the_option_is_one_beat(command: Command) -> None:
    result = command("beat", "--json", flows="good")

    assert result.exit_code == 0
    assert result.stdout.count("timestamp") == 1


def test_the_option_explains_itself(command: Command) -> None:
    assert "any number of machines" in " ".join(command("beat", "--help").output.split())


# How long each beat takes, and when each begins, in seconds after the first one.
@pytest.mark.parametrize(
    ("takes", "begins"),
    [
        pytest.param([0, 0, 0, 0], [0, 60, 120, 180], id="quick"),
        pytest.param([1, 59, 30, 0], [0, 60, 120, 180], id="within the interval"),
        pytest.param([61, 0, 0], [0, 61, 120], id="a little too long: the next one follows"),
        pytest.param([150, 0, 0], [0, 150, 180], id="of two points that passed, one is served"),
        pytest.param([60, 60, 0], [0, 60, 120], id="exactly the interval"),
        pytest.param([60.5, 60.5, 60.5, 0], [0, 60.5, 121, 181.5], id="each a little too long"),
    ],
)
def test_the_length_of_a_beat_does_not_move_the_grid(
    scheduled: Scheduled,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    takes: list[float],
    begins: list[float],
) -> None:
    began: list[float] = []

    def beat(*_arguments: object) -> BeatReport:
        began.append(clock.monotonic())
        clock.advance(takes[len(began) - 1])
        return BeatReport(clock.now())

    monkeypatch.setattr(rhythm, "run_beat", beat)
    scheduler, _app = scheduled(len(takes))

    scheduler.work(lambda _report: None)

    assert began == begins


def test_a_beat_waits_no_longer_than_the_interval_or_the_setting(
    make_app: MakeApp, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def beat(_heartbeat: object, _source: str, wait: float) -> BeatReport:
        waits.append(wait)
        return BeatReport(clock.now())

    monkeypatch.setattr(rhythm, "run_beat", beat)
    for seconds in ("10s", "5m"):
        heartbeat = heartbeat_of(make_app(good, **{"heartbeat.wait": seconds}))
        Scheduler(heartbeat, "a test", EVERY, Stop(clock, 1)).work(lambda _report: None)

    assert waits == [10, EVERY]


def away() -> Exception:
    """Make the error of a database that is away."""
    return DatabaseNotReadyError("the database cannot be reached")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (away, "the database cannot be reached"),
        (
            lambda: OperationalError("x", {}, OSError("hunter2"), connection_invalidated=True),
            "the database failed (",
        ),
        (lambda: LookupError("an odd error"), "LookupError: an odd error"),
        (lambda: SystemExit(3), "SystemExit: 3"),
    ],
)
def test_beats_that_fail_alike_are_logged_once_and_end_nothing(
    scheduled: Scheduled,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Callable[[], BaseException],
    line: str,
) -> None:
    reports: list[BeatReport] = []
    attempts: list[int] = []

    def beat(*_arguments: object) -> BeatReport:
        attempts.append(len(attempts))
        if 2 <= len(attempts) <= 4 or len(attempts) == 6:
            raise error()
        return BeatReport(datetime.now(UTC))

    monkeypatch.setattr(rhythm, "run_beat", beat)
    scheduler, _app = scheduled(7)

    with caplog.at_level(logging.INFO, rhythm.__name__):
        scheduler.work(reports.append)

    first, again, second, once_more = caplog.messages
    assert len(reports) == 3
    assert first == second
    assert first.startswith("no beat, retrying every 1m: ")
    assert line in first
    assert (again, once_more) == ("beats work again", "beats work again")


def test_lines_that_cannot_be_printed_end_nothing(
    scheduled: Scheduled, caplog: pytest.LogCaptureFixture
) -> None:
    def show(_report: BeatReport) -> None:
        raise OSError(28, "No space left on device")

    scheduler, app = scheduled(3)
    scheduler.work(show)

    assert [text for text in caplog.messages if "No space left on device" in text] == [
        "the line of a beat cannot be printed: [Errno 28] No space left on device"
    ] * 3
    assert heartbeat_of(app).registered.is_set()
