"""What a flow receives: its run, with the session to write to and the window to work on."""

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class Window:
    """The time span that a run processes, in aware UTC; it starts at the end of the last one."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a flow.

    session: writes through it are committed together with the run's success, or not at all.
    configuration: the JSON object of the flow's row, or the declared model of it.
    window: the time span to process; those of successful runs have no gap and no overlap.
    scheduled_for: the slot, aware UTC; None for a manual run.
    attempt: 1, or more for a retry of the same slot.
    log: a logger whose lines are kept with the run.
    """

    id: int
    flow_name: str
    session: Session
    configuration: Any
    window: Window
    scheduled_for: datetime | None
    attempt: int
    log: logging.Logger


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRun:
    """A run that this process has claimed, with what its execution needs of the flow's row.

    The defaults are those of a run without a row, as in a test.

    configuration: the text of the JSON object of the flow's row, as it is stored.
    """

    id: int = 0
    data_flow_id: int = 0
    flow_name: str
    handler: str
    configuration: str | None
    trigger: str = "manual"
    attempt: int = 1
    missed_slots: int = 0
    scheduled_for: datetime | None = None
    window_start: datetime
    window_end: datetime
    started_at: datetime
    claim_id: str = ""
    worker: str = ""
