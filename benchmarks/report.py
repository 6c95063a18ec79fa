"""The results as text: medians, quartiles, ratios, the table and the bars."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NOT_MEASURED = "-"
FEWEST_FOR_QUARTILES = 2
DIGITS = 3
HEAD = """\
Written by `make bench`; do not edit. Each figure is a median, followed by the lower and the upper
quartile. Compare the ratios: the figures themselves are those of one machine on one day.
"""
RATIO = "A ratio is computed for each round, in which both sides are measured in turn."


@dataclass(frozen=True)
class Measured:
    """The values of all rounds, in order."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The value in the middle."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The lower and the upper quartile."""
        if len(self.values) < FEWEST_FOR_QUARTILES:
            return self.values[0], self.values[0]
        lower, _, upper = statistics.quantiles(self.values, method="inclusive")
        return lower, upper

    def __truediv__(self, other: Measured) -> Measured:
        """Divide round by round, so that a slow moment of the machine cancels out."""
        pairs = zip(self.values, other.values, strict=True)
        return Measured(tuple(ours / theirs for ours, theirs in pairs))

    def __str__(self) -> str:
        """Return the median, followed by the quartiles."""
        lower, upper = self.spread
        return f"{rounded(self.median)} ({rounded(lower)}..{rounded(upper)})"


@dataclass(frozen=True)
class Bar:
    """A limit for a ratio, and the measured ratio."""

    number: str
    text: str
    limit: float
    ratio: Measured | str
    at_least: bool = False

    @property
    def wanted(self) -> str:
        """The limit, in words."""
        return f"at {'least' if self.at_least else 'most'} {self.limit:g}"

    @property
    def reached(self) -> str:
        """Whether the median is within the limit."""
        if isinstance(self.ratio, str):
            return "not measured"
        within = (
            self.limit <= self.ratio.median if self.at_least else self.ratio.median <= self.limit
        )
        return "yes" if within else "**NO**"


@dataclass
class Report:
    """All cells of the table, by row and column, and all bars."""

    columns: Sequence[str]
    cells: dict[str, dict[str, str]] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sections: dict[str, str] = field(default_factory=dict)

    def put(self, row: str, column: str, value: object) -> None:
        """Set a cell."""
        self.cells.setdefault(row, {})[column] = str(value)

    def note(self, text: str) -> None:
        """Add a sentence below the table, unless it is there already."""
        if text not in self.notes:
            self.notes.append(text)

    def add_section(
        self, title: str, text: str, head: Sequence[str], rows: Sequence[Sequence[str]]
    ) -> None:
        """Add a section with a table of its own."""
        self.sections[title] = f"## {title}\n\n{text}\n\n{markdown(head, rows)}"

    def table(self) -> str:
        """Return the table of all rows that have a cell."""
        rows = [
            [name, *(cells.get(column, NOT_MEASURED) for column in self.columns)]
            for name, cells in self.cells.items()
        ]
        return markdown(["", *self.columns], rows)

    def bars_table(self) -> str:
        """Return the table of the bars."""
        rows = [
            [bar.number, bar.text, bar.wanted, str(bar.ratio), bar.reached]
            for bar in sorted(self.bars, key=lambda bar: bar.number)
        ]
        return markdown(["", "bar", "wanted", "measured", "reached"], rows)


def rounded(value: float) -> str:
    """Format a number with three significant digits, without an exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (DIGITS - 1):
        return f"{value:,.0f}"
    return f"{float(f'{value:.{DIGITS}g}'):.10f}".rstrip("0").rstrip(".")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(report: Report, machine: Mapping[str, str], method: str, limits: str) -> str:
    """Return the whole page."""
    parts = [
        "# Results",
        HEAD,
        *(["## The bars", RATIO, report.bars_table()] if report.bars else []),
        "## Side by side",
        report.table(),
        *(f"- {note}" for note in report.notes),
        *report.sections.values(),
        "## Method",
        method,
        "## What this does not show",
        limits,
        "## Environment",
        "\n".join(f"- {name}: {value}" for name, value in machine.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
