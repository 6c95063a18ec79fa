"""Whether the rhythm of the beats shows that another one comes before a slot."""

from datetime import timedelta

import pytest

from data_flows.heartbeat.runs.upcoming import another_beat_comes

from ..factories import NOON


def comes(beats: list[float], slot: float, now: float = 0) -> bool:
    """Ask with seconds from noon."""
    moments = [NOON + timedelta(seconds=seconds) for seconds in (*beats, slot, now)]
    return another_beat_comes(moments[:-2], moments[-2], moments[-1])


@pytest.mark.parametrize("beats", [[0], [-1, 0], []])
def test_two_beats_show_no_rhythm(beats: list[float]) -> None:
    assert not comes(beats, slot=30)


def test_the_next_beat_is_counted_from_the_last_one_by_the_largest_gap() -> None:
    assert comes([-21, -11, -1], slot=9.1)
    assert not comes([-21, -11, -1], slot=9)
    assert not comes([-26, -11, -1], slot=9.1)
    assert comes([-26, -11, -1], slot=14.1)


def test_a_beat_that_ought_to_have_come_is_not_counted_on() -> None:
    assert comes([-22, -12, -2], slot=20, now=8)
    assert not comes([-22, -12, -2], slot=20, now=8.1)


def test_beats_of_a_clock_that_was_set_back_are_not_counted_on() -> None:
    assert not comes([28_780, 28_790, 28_800, -10, 0], slot=20)
    assert not comes([28_800, -20, -10, 0], slot=20)


def test_beats_may_be_given_in_any_order() -> None:
    assert comes([-1, -11, -21], slot=9.1)
