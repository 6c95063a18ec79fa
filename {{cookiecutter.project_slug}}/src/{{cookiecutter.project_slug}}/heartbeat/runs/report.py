"""The report of a beat, for its reply and its row."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(slots=True)
class BeatReport:
    """What a beat found and did: the members of the reply. `duration` is in seconds.

    flows_due: the flows that were due or had a pending run when the beat came, and those that
        became due by reaping or whose slot the beat has waited for.
    goes_on: whether the beat is answered before it has ended.
    """

    timestamp: datetime
    flows_due: int = 0
    flows_triggered: int = 0
    flows_succeeded: int = 0
    flows_failed: int = 0
    flows_in_progress: int = 0
    runs_reaped: int = 0
    duration: float = 0.0
    goes_on: bool = False
    run_ids: list[int] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """Return the counts and the duration, for the beat's row."""
        left_out = {"timestamp", "goes_on", "run_ids"}
        return {name: getattr(self, name) for name in self.__slots__ if name not in left_out}
