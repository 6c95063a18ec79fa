"""The JSON members of flows: the same ones by HTTP and with `--json`."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel


class FlowMembers(BaseModel):
    """A flow. `next_run_at` is None while it is disabled.

    stale: whether a success is overdue by its option `expect_success_within`.
    """

    name: str
    handler: str | None
    description: str | None
    enabled: bool
    every: str | None
    cron: str | None
    timezone: str | None
    configuration: dict[str, Any] | None
    next_run_at: datetime | None
    last_run_at: datetime | None
    last_run_status: str | None
    last_success_at: datetime | None
    disabled_reason: str | None
    why: str
    stale: bool
    next_slots: list[datetime]


class FlowList(BaseModel):
    """The flows, by name."""

    flows: list[FlowMembers]
