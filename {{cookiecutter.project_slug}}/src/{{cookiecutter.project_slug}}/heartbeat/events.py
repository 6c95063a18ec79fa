"""What happens in an application's heartbeat: for its log, and for optional modules."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy.orm import Session

from .models import RunStatus
from .run import ClaimedRun

_KEY = "heartbeat.events"


@dataclass(slots=True)
class BeatReport:
    """What a beat found and did: the members of the reply. `duration` is in seconds.

    flows_due: the flows that were due or had a pending run when the beat came, and those that
        became due by reaping or whose slot the beat has waited for.
    goes_on: whether the beat is answered before it has ended.
    note: what the caller should know besides, in a sentence.
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
    note: str | None = None
    run_ids: list[int] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """Return the counts and the duration, for the beat's row."""
        left_out = {"timestamp", "goes_on", "note", "run_ids"}
        return {name: getattr(self, name) for name in self.__slots__ if name not in left_out}


@dataclass(frozen=True, slots=True)
class BeatStarted:
    """A beat has begun.

    source: the address of its caller, and the name of its token.
    key: is the same at the beat's end.
    """

    source: str
    key: UUID = field(default_factory=uuid4)


@dataclass(frozen=True, slots=True)
class BeatEnded:
    """A beat has ended, or could not work because of an `error`.

    id: the id of its row; None if it could not be written.
    """

    started: BeatStarted
    report: BeatReport
    id: int | None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A claimed run begins in this process."""

    run: ClaimedRun


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run has ended, and its end is committed.

    duration: in seconds; None for a run that has not begun.
    retry_at: when its slot runs again, aware UTC; None if it does not.
    """

    id: int
    data_flow_id: int
    flow_name: str
    handler: str
    trigger: str
    scheduled_for: datetime | None
    attempt: int
    status: RunStatus
    ended_at: datetime
    duration: float | None
    error_type: str | None = None
    error_message: str | None = None
    retry_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class FlowDisabled:
    """The engine has disabled a flow: after failures in a row, or since its row is unreadable."""

    data_flow_id: int
    flow_name: str
    reason: str


Event = BeatStarted | BeatEnded | RunStarted | RunEnded | FlowDisabled


def after_commit(session: Session, event: Event) -> None:
    """Keep an event until the transaction of `session`, one of Heartbeat's, has committed."""
    session.info.setdefault(_KEY, []).append(event)


def events_of(session: Session) -> list[Event]:
    """Return the events that were kept for the end of the transaction."""
    return [*session.info.get(_KEY, ())]
