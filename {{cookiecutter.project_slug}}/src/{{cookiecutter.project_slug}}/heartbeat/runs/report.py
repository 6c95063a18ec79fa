"""What a beat reports, in its reply and in its row."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(slots=True)
class BeatReport:
    """What a beat found and did: the members of the reply. `duration` is in seconds.

    `flows_due` counts the flows that were due or had a run to start when it came, and those that
    its reaping made so or whose slot it waited for.
    `goes_on` is True if it was answered before it had recorded what it did.
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
        """Return the counts and the duration: what the beat's row keeps."""
        left_out = {"timestamp", "goes_on", "run_ids"}
        return {name: getattr(self, name) for name in self.__slots__ if name not in left_out}
