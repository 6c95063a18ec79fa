"""What is rehearsed: the manual run that a flow would have now, without a row."""

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from ...core import Heartbeat
from ...errors import HandlerNotRegisteredError, InputError, UnknownFlowError
from ...json_values import json_problem, parse_json
from ...models import DataFlow
from ...run import ClaimedRun
from ...runs.claim import READ
from ...runs.due import window_of
from ...runs.register import declared_row
from ...runs.unreadable import require_readable
from ...schedules.between import read_zone


def prepare(
    heartbeat: Heartbeat,
    name: str,
    times: tuple[datetime, datetime] | None = None,
    values: Mapping[str, Any] | None = None,
) -> ClaimedRun:
    """Return the run of the flow called `name`, with these values in its configuration.

    times: its window; those without a zone are in the flow's. By default it has the one of a run.

    A flow that is declared in code, but has no row yet, is as new. Raises UnknownFlowError,
    HandlerNotRegisteredError, or InputError.
    """
    now = heartbeat.clock.now()
    with heartbeat.session() as session:
        flow: Any = session.execute(select(*READ).where(DataFlow.name == name)).one_or_none()
    if flow is None:
        if name not in heartbeat.flows:
            raise UnknownFlowError(name)
        flow = declared_row(heartbeat.flows[name], now)
    require_readable(flow)
    if flow.handler not in heartbeat.flows:
        raise HandlerNotRegisteredError(name, flow.handler)
    start, end = _window(times, flow.timezone) if times else window_of(heartbeat, flow, None, now)
    return ClaimedRun(
        flow_name=name,
        handler=flow.handler,
        configuration=_configured(flow.configuration, values or {}),
        window_start=start,
        window_end=end,
        started_at=now,
    )


def _window(times: tuple[datetime, datetime], timezone: str) -> tuple[datetime, datetime]:
    zone = read_zone(timezone)
    start, end = (time.replace(tzinfo=time.tzinfo or zone).astimezone(UTC) for time in times)
    if start >= end:
        raise InputError({"--window": ["must end after its start"]})
    return start, end


def _configured(stored: str | dict[str, Any] | None, values: Mapping[str, Any]) -> str | None:
    """Return the text of a configuration with these values. One that is unreadable stays so."""
    if problem := json_problem({**values}):
        raise InputError({"--set": [problem]})
    text = json.dumps(stored) if isinstance(stored, dict) else stored
    if values:
        with suppress(ValueError, RecursionError):
            known = parse_json(text or "null") or {}
            return json.dumps({**known, **values}) if isinstance(known, dict) else text
    return text
