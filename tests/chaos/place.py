"""The places at which processes are kept running."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from .processes import Process

NEVER = float("inf")


@dataclass
class Place:
    """One of the places that a process is kept running at."""

    process: Process
    # When something is to be done about it, by the monotonic clock.
    until: float = NEVER
    stopped_at: datetime | None = None
    # It was asked to end, and may take its time.
    ending: bool = False

    @property
    def up(self) -> bool:
        """Whether its process serves, as far as is known."""
        process = self.process
        return not (self.stopped_at or self.ending or process.ended) and process.is_ready

    @property
    def works(self) -> bool:
        """Whether its process serves, and can reach its database."""
        return self.up and not self.process.is_cut_off
