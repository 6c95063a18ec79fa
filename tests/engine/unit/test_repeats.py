"""Of equal lines, one is logged each minute."""

import logging
import time

import pytest

from data_flows.heartbeat import repeats
from data_flows.heartbeat.repeats import RepeatLimit

log = logging.getLogger(__name__)


def test_equal_lines_are_counted_instead_of_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    limit = RepeatLimit()

    for now in (0.0, 1.0, 59.0, 60.0, 61.0, 200.0):  # noqa: B007 - `monotonic` reads it
        limit.log(log, logging.WARNING, "away: %s", "timeout")
    limit.log(log, logging.WARNING, "away: %s", "refused")

    assert caplog.messages == [
        "away: timeout",
        "away: timeout (2 more such lines were left out)",
        "away: timeout (1 more such lines were left out)",
        "away: refused",
    ]


def test_a_key_makes_lines_of_different_text_equal(caplog: pytest.LogCaptureFixture) -> None:
    limit = RepeatLimit()

    for number in range(3):
        limit.log(log, logging.ERROR, "attempt %d", number, key="attempt")

    assert caplog.messages == ["attempt 0"]
    assert caplog.records[0].filename == "test_repeats.py"


def test_callers_from_many_addresses_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "REMEMBERED", 10)
    limit = RepeatLimit()

    for number in range(100):
        limit.log(log, logging.DEBUG, "from %d", number)

    assert len(limit._lines) <= 10  # noqa: SLF001 - nothing else shows it
