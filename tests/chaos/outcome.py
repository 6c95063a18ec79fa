"""What chaos or a storm did, and what came of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .audit import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .audit import Violation

MOST_SHOWN = 30


@dataclass
class Outcome:
    """What chaos did, what came of it, and what must never be."""

    seed: int | None
    kind: str
    figures: Mapping[str, float]
    violations: list[Violation]
    # What beats were told instead of a report, and how often.
    refusals: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        """Give the summary, and each violation on a line of its own."""
        found = Counter(violation.kind for violation in self.violations)
        name = "storm" if self.seed is None else f"chaos, seed {self.seed},"
        told = [
            f"{name} on {self.kind}",
            ", ".join(f"{name} {number}" for name, number in self.figures.items()),
            ", ".join(f"{kind} {found[kind]}" for kind in KINDS),
        ]
        shown = [str(violation) for violation in self.violations[:MOST_SHOWN]]
        left_out = len(self.violations) - len(shown)
        more = [f"and {left_out} more"] if left_out else []
        refused = [f"{number} beats were told {text}" for text, number in self.refusals.items()]
        if self.kind == "sqlite":
            told.append("SQLite has no network: nothing was silent, late or lost there")
        return "\n".join([*told, *refused, *shown, *more])
