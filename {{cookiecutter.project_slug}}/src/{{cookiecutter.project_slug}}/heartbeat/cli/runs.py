"""Runs as lines of a table."""

from typing import Any

from ..members import RunMembers


def run_line(run: RunMembers) -> dict[str, Any]:
    """Return what a table shows of a run, by column."""
    return {
        "flow": run.flow,
        "run": run.id,
        "status": run.status,
        "trigger": run.trigger,
        "slot (UTC)": run.scheduled_for,
        "started (UTC)": run.started_at,
        "seconds": run.duration,
        "result or error": run.error or run.result,
    }
