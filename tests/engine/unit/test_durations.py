"""Durations as people write them; the grid itself is shown in functional/test_grid.py."""

from datetime import timedelta

import pytest

from data_flows.heartbeat.durations import format_every, parse_every
from data_flows.heartbeat.errors import ScheduleError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("90s", 90), ("5m", 300), ("2h", 7200), ("1d", 86400), ("7d", 604800)],
)
def test_an_interval_is_read_and_written_alike(text: str, seconds: int) -> None:
    assert parse_every(text) == seconds
    assert format_every(seconds) == text


@pytest.mark.parametrize("seconds", [1, 59, 60, 61, 3599, 3600, 86399, 86400, 90000, 2**31 - 1])
def test_any_interval_survives_being_written(seconds: int) -> None:
    assert parse_every(format_every(seconds)) == seconds


@pytest.mark.parametrize("value", [2**31, "2147483648", "24856d", timedelta(days=30_000)])
def test_an_interval_that_no_column_holds_is_refused(value: object) -> None:
    with pytest.raises(ScheduleError, match="is not a valid interval"):
        parse_every(value)
