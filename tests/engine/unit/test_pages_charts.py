"""Scales, ticks and bars of the pictures."""

from datetime import UTC, datetime, timedelta

import pytest

from data_flows.heartbeat.optional.pages import charts
from data_flows.heartbeat.optional.pages.charts import Span

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("value", "place"), [(0, 0), (5, 50), (10, 100), (-1, 0), (11, 100), (3.3333, 33.3)]
)
def test_a_scale_stays_within_its_axis(value: float, place: float) -> None:
    assert charts.scale(value, 0, 10, 100) == place
    assert charts.scale(value, 10, 10, 100) == 0


def test_ticks_of_time_are_whole_steps_since_midnight() -> None:
    start = NOON + timedelta(minutes=20)

    ticks = charts.time_ticks(start, start + 5 * HOUR, 3 * HOUR)

    assert ticks == [NOON + 3 * HOUR]
    assert charts.time_ticks(NOON, NOON + HOUR, HOUR) == [NOON, NOON + HOUR]


def test_spans_that_are_close_become_one() -> None:
    spans = [Span(100, 110, 1, 3), Span(0, 50, 2, 1), Span(20, 30, 1, 2), Span(111, 120)]

    assert charts.merge(spans, 1) == [Span(0, 50, 3, 2), Span(100, 120, 2, 3)]
    assert charts.merge(spans, 0) == [Span(0, 50, 3, 2), Span(100, 110, 1, 3), Span(111, 120)]
    assert charts.merge([], 1) == []


def test_spans_are_merged_until_they_fit() -> None:
    lanes = [[Span(10 * each, 10 * each + 1) for each in range(100)], [Span(0, 1)], []]

    few = charts.merge_to_fit(lanes, 50, 1)

    assert [len(lane) for lane in few] == [1, 1, 0]
    assert few[0][0].runs == 100
    assert [len(lane) for lane in charts.merge_to_fit(lanes, 101, 1)] == [100, 1, 0]
    # Each lane keeps a bar, however few may be drawn.
    assert [len(lane) for lane in charts.merge_to_fit(lanes, 1, 1)] == [1, 1, 0]


def test_a_bar_is_wide_enough_to_see_and_ends_with_the_axis() -> None:
    axis = 0.0, 1000.0

    assert charts.bars([Span(100, 300)], axis, 100, 5, 8) == "M10 5h20v8h-20z"
    assert charts.bars([Span(100, 101)], axis, 100, 5, 8) == "M10 5h1.5v8h-1.5z"
    assert charts.bars([Span(-500, 2000)], axis, 100, 0, 1) == "M0 0h100v1h-100z"
