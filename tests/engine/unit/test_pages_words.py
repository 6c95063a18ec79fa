"""Times and durations in words."""

from datetime import UTC, datetime, timedelta

import pytest

from data_flows.heartbeat.optional.pages import words

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "now"),
        (40, "in 40 s"),
        (-40, "40 s ago"),
        (-80, "1 min 20 s ago"),
        (-300, "5 min ago"),
        (7_500, "in 2 h 5 min"),
        (-3 * 86_400, "3 d ago"),
    ],
)
def test_a_moment_is_told_as_seen_from_now(seconds: float, text: str) -> None:
    assert words.ago(NOON + timedelta(seconds=seconds), NOON) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.08, "80 ms"), (1.23, "1.2 s"), (42.4, "42 s"), (300, "5 min")],
)
def test_a_duration_has_two_units_at_most(seconds: float | None, text: str) -> None:
    assert words.lasted(seconds) == text


def test_a_moment_has_its_date_unless_it_is_today() -> None:
    late = NOON + timedelta(hours=11, minutes=30)

    assert words.times(NOON, "UTC", NOON, exact=True) == ["12:00:00 UTC"]
    assert words.times(late, "Europe/Berlin", NOON) == ["2026-03-02 00:30 CET", "23:30 UTC"]
    assert words.times(NOON, "Nowhere/Land", NOON) == ["12:00 UTC"]


@pytest.mark.parametrize(
    ("cron", "text"),
    [
        ("* * * * *", "every minute"),
        ("*/5 * * * *", "every 5 min"),
        ("*/45 * * * *", "cron */45 * * * *"),
        ("*/0 * * * *", "cron */0 * * * *"),
        ("7 * * * *", "every hour at :07"),
    ],
)
def test_a_cron_expression_is_put_into_words_if_they_are_true(cron: str, text: str) -> None:
    assert words.schedule(None, cron) == text
