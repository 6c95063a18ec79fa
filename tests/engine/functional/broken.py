"""Helpers of the tests of broken rows: values that a database stores and no one can read."""

from collections.abc import Collection
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run

from ..conftest import DATABASE, TOKEN, FakeClock, MakeApp
from .operated import SECRET, as_operator, count

# By column of data_flows, SQL of an invalid value for which a beat disables the flow.
MET_BY_BEATS = {
    "sqlite": {
        "configuration": ["CAST(x'ff' AS TEXT)", "x'fe'", "'{oops'", "'[1]'", "'NaN'"],
        "run_interval": ["'x'", "1.5", "10000000000000", "CAST(x'ff' AS TEXT)"],
        "timezone": ["x'ff'", "'Mars/Olympus'"],
        "next_run_at": ["'x'", "5", "x'ff'", "'2026-02-30 00:00:00'", "'9999-12-31'"],
        "last_slot_at": ["'x'", "5", "CAST(x'ff' AS TEXT)", "'12026-01-01 00:00:00'"],
        "skipped_slots": ["'x'", "0.5"],
        "window_starts_at": ["'x'"],
        "backfill_until": ["'x'"],
        "created_at": ["'x'", "''"],
        "name": ["x'ff'"],
    },
    "postgresql": {
        "configuration": ["'[1]'", "'5'"],
        "timezone": ["'Mars/Olympus'"],
        "next_run_at": ["'infinity'", "'-infinity'", "'0044-03-15 BC'", "'12026-01-01'"],
        "last_slot_at": ["'infinity'", "'0044-03-15 BC'", "'12026-01-01'"],
        "window_starts_at": ["'infinity'"],
        "backfill_until": ["'infinity'"],
        "created_at": ["'-infinity'"],
    },
    "mysql": {
        "configuration": ["'[1]'", "'5'"],
        "timezone": ["'Mars/Olympus'"],
        "next_run_at": ["'0000-00-00'", "'9999-12-31'"],
        "last_slot_at": ["'0000-00-00'", "'2026-00-15'"],
        "window_starts_at": ["'0000-00-00'"],
        "created_at": ["'0000-00-00'"],
    },
}[DATABASE]
# Columns that a run overwrites, or that are only shown: a list disables the flow.
MET_BY_LISTS = {
    "sqlite": {
        "description": ["x'ff'", "CAST(x'ff' AS TEXT)"],
        "enabled": ["'x'", "7"],
        "last_run_at": ["'x'"],
        "last_success_at": ["5"],
        "last_success_started_at": ["'x'"],
        "failures_in_a_row": ["'x'"],
        "success_count": ["'x'"],
        "failure_seconds": ["'x'", "9e999"],
        "declared_schedule": ["x'ff'"],
        "on_lost": ["x'ff'"],
        "retries": ["'x'"],
        "retry_delay": ["'x'"],
        "pause_after": ["'x'"],
        "held_because": ["x'ff'"],
        "updated_at": ["'x'"],
    },
    "postgresql": {
        "last_run_at": ["'infinity'"],
        "last_success_at": ["'0044-03-15 BC'"],
        "success_seconds": ["'NaN'"],
        "updated_at": ["'12026-01-01'"],
    },
    "mysql": {
        "enabled": ["7"],
        "last_run_at": ["'0000-00-00'"],
        "updated_at": ["'0000-00-00'"],
    },
}[DATABASE]
# An unreadable time, of a run too.
NO_TIME = {"sqlite": "'x'", "postgresql": "'infinity'", "mysql": "'0000-00-00'"}[DATABASE]
# Deeper than any parser goes; the servers' own limits are lower.
DEEP = {"sqlite": 10_000, "postgresql": 3_000, "mysql": 31}[DATABASE]
NESTED = "'" + "[" * DEEP + "]" * DEEP + "'"


def pairs(*values: dict[str, list[str]], without: Collection[str] = ()) -> list[Any]:
    """Return parameters for each column and value, with an id that can be read."""
    found = [
        (column, each)
        for by in values
        for column, given in by.items()
        for each in given
        if column not in without
    ]
    return [pytest.param(*pair, id=f"{pair[0]}={pair[1][:24]}") for pair in found]


class Rig:
    """An application with a flow called "broken", to break, and another one.

    Both have just run. `call` is what an operator does by HTTP.
    """

    def __init__(self, app: TestApp, clock: FakeClock, dbsession: Session) -> None:
        self.app, self.clock, self.dbsession = app, clock, dbsession
        self.call = as_operator(app)
        self.beat()

    def beat(self, seconds: float = 0) -> dict[str, Any]:
        """Move the clock ahead, beat, and return the reply."""
        self.clock.advance(seconds)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        reply: dict[str, Any] = self.app.post("/heartbeat", headers=headers, status=200).json
        return reply

    def write(self, column: str, value: str, run: int | None = None) -> None:
        """Write a value, given as SQL, into the row of the flow or into that of a run, by hand."""
        table, row = (
            ("data_flows", "name = 'broken'") if run is None else ("data_flow_runs", f"id = {run}")
        )
        if DATABASE == "mysql":
            self.dbsession.execute(text("SET SESSION sql_mode = 'ALLOW_INVALID_DATES'"))
        statement = f"UPDATE {table} SET {column} = {value} WHERE {row}"  # noqa: S608
        result = self.dbsession.execute(text(statement.replace(":", "\\:")))
        assert result.rowcount == 1  # type: ignore[attr-defined]
        self.dbsession.commit()

    def stored(self) -> tuple[bool, str]:
        """Return whether the flow is enabled, and why not, without reading the rest of its row."""
        self.dbsession.rollback()
        columns = "SELECT enabled, disabled_reason FROM data_flows WHERE handler = 'broken'"
        enabled, reason = self.dbsession.execute(text(columns)).one()
        return bool(enabled == 1), str(reason or "")


def broken(run: Run) -> dict[str, Any]:
    """Count birds, by a row that a test breaks."""
    return count(run)


def make_rig(make_app: MakeApp, clock: FakeClock, dbsession: Session, **options: Any) -> Rig:
    """Make it with these options of the flow to break."""
    return Rig(make_app((broken, options), count, **SECRET), clock, dbsession)
