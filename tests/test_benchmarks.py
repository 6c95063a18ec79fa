"""What `make bench` says of its measurements: medians, spreads, ratios and bars."""

from __future__ import annotations

import pytest

from benchmarks.report import Bar, Measured, Report, rounded, write


def test_a_median_is_told_with_its_quartiles() -> None:
    measured = Measured((5.0, 1.0, 2.0, 4.0, 30.0))

    assert measured.median == 4.0
    assert measured.spread == (2.0, 5.0)
    assert str(measured) == "4 (2..5)"


def test_a_single_value_has_no_spread() -> None:
    assert str(Measured((7.0,))) == "7 (7..7)"


def test_a_ratio_is_taken_round_by_round_so_that_drift_cancels() -> None:
    # The machine became ten times slower meanwhile, for both.
    ours, theirs = Measured((200.0, 20.0, 2.0)), Measured((100.0, 10.0, 1.0))

    assert (ours / theirs).values == (2, 2, 2)


def test_a_ratio_of_rounds_without_a_partner_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Measured((1.0, 2.0)) / Measured((1.0,))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (3.14159, "3.14"), (42.42, "42.4"), (1234.5, "1,234")],
)
def test_three_digits_are_told(value: float, text: str) -> None:
    assert rounded(value) == text


@pytest.mark.parametrize(
    ("at_least", "measured", "reached"),
    [
        (True, 2.0, "yes"),
        (True, 1.99, "**NO**"),
        (False, 2.0, "yes"),
        (False, 2.01, "**NO**"),
    ],
)
def test_a_bar_that_is_missed_is_said_so(*, at_least: bool, measured: float, reached: str) -> None:
    bar = Bar("1", "runs", 2.0, Measured((measured,)), at_least=at_least)

    assert bar.reached == reached


def test_a_bar_that_was_not_measured_is_not_reached_and_says_why() -> None:
    report = Report(("runs/s",), bars=[Bar("1", "runs", 2.0, "no PostgreSQL")])

    assert "| 1 | runs | at most 2 | no PostgreSQL | not measured |" in report.bars_table()


def test_the_page_has_every_row_and_a_dash_where_nothing_was_measured() -> None:
    report = Report(("runs/s", "tick, ms"))
    report.put("ours", "runs/s", Measured((10.0, 20.0)))
    report.put("theirs", "tick, ms", "- (no server)")
    report.note("said once")
    report.note("said once")

    page = write(report, {"cores": "2"}, "how", "limits")

    assert "| ours | 15 (12.5..17.5) | - |" in page
    assert "| theirs | - | - (no server) |" in page
    assert page.count("said once") == 1
    assert "- cores: 2" in page


def test_a_part_has_a_section_with_a_table_of_its_own() -> None:
    report = Report(("runs/s",))
    report.add_section("Worker processes", "Runs a second.", ["", "1 process"], [["ours", "42"]])

    page = write(report, {}, "how", "limits")

    table = "|  | 1 process |\n| --- | --- |\n| ours | 42 |"
    assert f"## Worker processes\n\nRuns a second.\n\n{table}\n\n## Method" in page
