"""The JSON members of lists and of rhythms, and the parameters of lists: by HTTP and as options.

Times are in UTC, durations and gaps in seconds. A stored value that cannot be read is None.
"""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field

from ...members import RunMembers
from ...models import RunStatus

DEFAULT_LIMIT = 50
# A run may have a result of megabytes, so that a page of many runs would be large.
MAX_LIMIT = 500
MAX_ID = 2**63 - 1


def _whole_number(given: object) -> object:
    if isinstance(given, str) and not (given.isascii() and given.isdigit()):
        raise ValueError("it is not a whole number")
    return given


Number = Annotated[int, BeforeValidator(_whole_number)]


class PageQuery(BaseModel, extra="forbid"):
    """The parameters of a list, newest first. `before` is the id that ends the previous page."""

    limit: Number = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)
    before: Number | None = Field(None, ge=1, le=MAX_ID)


class RunQuery(PageQuery):
    """The parameters of the list of runs."""

    # No name contains NUL, and PostgreSQL refuses a text with one.
    flow: str | None = Field(None, pattern=r"^[^\x00]*$")
    status: RunStatus | None = None


class RunList(BaseModel):
    """A page of runs."""

    runs: list[RunMembers]


class StoredBeat(BaseModel):
    """A beat. `received_at` is its time, and `source` the address and the token's name."""

    id: int
    received_at: datetime | None
    source: str
    flows_due: int | None
    flows_triggered: int | None
    flows_succeeded: int | None
    flows_failed: int | None
    flows_in_progress: int | None
    runs_reaped: int | None
    duration: float | None


class Rhythm(BaseModel):
    """How regularly a source beats; `source` is None for all sources together.

    Gaps are in seconds, and None for a single beat. `missed_flows` is the number of enabled flows
    whose interval is shorter than `p95_gap`, so that slots are missed, with at most 20 names.
    """

    source: str | None
    beats: int
    last_beat_at: datetime
    median_gap: float | None
    p95_gap: float | None
    worst_gap: float | None
    has_stopped: bool
    missed_flows: int
    missed_flow_names: list[str]
    verdict: str


class BeatList(BaseModel):
    """A page of beats, and the rhythm of each source over the newest beats."""

    beats: list[StoredBeat]
    rhythms: list[Rhythm]
