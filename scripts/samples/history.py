"""Fill an empty, migrated database with flows and their history, ending now.

Run by a rendered project's Python, which has the sample flows: `history.py URL FLOWS`. The same
number of flows gives the same history, apart from the current time.
"""

from __future__ import annotations

import random
import sys
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from data_flows.heartbeat.models import DataFlow, DataFlowBeat, DataFlowRun
from sqlalchemy import create_engine, insert
from sqlalchemy.orm import Session

NAMES = (
    *("import_orders", "nightly_report", "sync_customers", "export_invoices"),
    *("clean_inbox", "currency_rates", "load_warehouse", "send_reminders"),
)
SUBJECTS = ("orders", "invoices", "stock", "prices", "returns", "customers", "feeds", "reports")
# By place in the list: what is not well.
STATES = {1: "failing", 4: "paused", 5: "late", 6: "running"}
ZONES = ("Europe/Berlin", "America/New_York", "Asia/Tokyo")
DAYS = 84
RECENT_RUNS = 60
SHARE_OF_FAILURES = 0.03
BACKTRACE = """Traceback (most recent call last):
  File "/srv/data_flows/src/data_flows/heartbeat/runs/execute.py", line 96, in _execute
    result = definition.function(run)
  File "/srv/data_flows/src/data_flows/flows/shops.py", line 26, in import_orders
    return {"total": shop.orders * rate_of(shop.currency)}
  File "/srv/data_flows/src/data_flows/flows/shops.py", line 42, in rate_of
    raise LookupError(message)
LookupError: no rate for the currency 'EURO': known are EUR, CHF, USD
"""


class Filler:
    """Makes the rows. `chance` is the one source of what looks random."""

    def __init__(self, count: int) -> None:
        """Plan `count` flows."""
        self.count = count
        self.now = datetime.now(UTC)
        self.chance = random.Random(count)  # noqa: S311 - no secret

    def flow(self, number: int) -> dict[str, Any]:
        """Return the columns of a flow."""
        state = STATES.get(number % 40 if self.count > len(NAMES) else number, "ok")
        zone = ZONES[number % 3]
        cron = "0 3 * * *" if number % 3 == 1 else None
        interval = None if cron else self.chance.choice((300, 900, 3_600))
        last, slot = self.slots_at_three(zone) if cron else self.slots_of_interval(interval or 1)
        if state == "late":
            slot = self.now - timedelta(hours=2)
        name = NAMES[number] if number < len(NAMES) else f"{SUBJECTS[number % 8]}_{number:04}"
        is_failing = state == "failing"
        return {
            "name": name,
            "handler": "import_orders" if number % 2 == 0 or is_failing else "read_feed",
            "configuration": {"currency": "EURO" if is_failing else "EUR", "orders": number % 50},
            "description": "Import the orders of a shop.",
            "enabled": state != "paused",
            "run_interval": interval,
            "cron": cron,
            "timezone": zone if cron else "UTC",
            "next_run_at": slot,
            "last_slot_at": last,
            "last_run_at": last,
            "last_run_status": "failed" if is_failing else "success",
            "last_success_at": last - timedelta(days=2) if is_failing else last,
            "window_starts_at": last,
            "failures_in_a_row": 3 if is_failing else 0,
            "disabled_reason": (
                "paused by the operator at 192.0.2.7 ann: the warehouse moves until Monday"
                if state == "paused"
                else None
            ),
        }

    def slots_at_three(self, zone: str) -> tuple[datetime, datetime]:
        """Return the last and the next slot of a flow that runs at 3 o'clock in a zone."""
        local = self.now.astimezone(ZoneInfo(zone))
        last = local.replace(hour=3, minute=0, second=0, microsecond=0)
        if last > local:
            last -= timedelta(days=1)
        return last.astimezone(UTC), (last + timedelta(days=1)).astimezone(UTC)

    def slots_of_interval(self, seconds: int) -> tuple[datetime, datetime]:
        """Return the last and the next slot of a flow with an interval."""
        last = self.now - timedelta(seconds=self.chance.uniform(0.1, 0.9) * seconds)
        return last, last + timedelta(seconds=seconds)

    def runs(self, flow: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the runs of a flow, oldest first: one each day, then the recent ones."""
        seconds = self.chance.lognormvariate(0.5, 1.6)
        step = timedelta(seconds=flow["run_interval"] or 86_400)
        recent = [flow["last_run_at"] - step * back for back in range(RECENT_RUNS)]
        days = range(DAYS if self.count <= len(NAMES) else 0)
        daily = [self.now - timedelta(days=back, hours=1) for back in days]
        starts = sorted([start for start in daily if start < recent[-1]] + recent)
        failing_from = len(starts) - flow["failures_in_a_row"]
        rows: list[dict[str, Any]] = []
        covered_until = starts[0] - step
        for number, start in enumerate(starts):
            is_failed = number >= failing_from or self.chance.random() < SHARE_OF_FAILURES
            # A failed run's window is repeated by the next one.
            rows.append(self.run(start, seconds, covered_until, is_failed=is_failed))
            if not is_failed:
                covered_until = start
        return rows

    def run(
        self, start: datetime, seconds: float, window_start: datetime, *, is_failed: bool
    ) -> dict[str, Any]:
        """Return the columns of a run that took about so many seconds."""
        duration = seconds * self.chance.lognormvariate(0, 0.4)
        duration = min(duration, 0.9 * (self.now - start).total_seconds())
        return {
            "status": "failed" if is_failed else "success",
            "trigger": "schedule",
            "scheduled_for": start,
            "window_start": window_start,
            "window_end": start,
            "started_at": start,
            "ended_at": start + timedelta(seconds=duration),
            "duration": duration,
            "worker": "web-1:4711",
            "claim_id": None,
            "lease_expires_at": None,
            "created_at": start,
            "error_type": "LookupError" if is_failed else None,
            "error_message": BACKTRACE.splitlines()[-1][13:] if is_failed else None,
            "error_backtrace": BACKTRACE if is_failed else None,
            "result": None if is_failed else {"total": 117.0},
            "log": f"{start:%H:%M:%S} INFO 39 orders in EUR",
        }

    def running(self, like: dict[str, Any]) -> dict[str, Any]:
        """Return the columns of a run that is in progress."""
        began = self.now - timedelta(seconds=70)
        ended = ("ended_at", "duration", "result", "error_type", "error_message", "error_backtrace")
        return {
            **like,
            **dict.fromkeys(ended),
            "status": "in_progress",
            "scheduled_for": began,
            "window_start": like["window_end"],
            "window_end": began,
            "started_at": began,
            "created_at": began,
            "claim_id": f"claim-{self.chance.random()}",
            "lease_expires_at": self.now + timedelta(days=1),
        }

    def beats(self) -> list[dict[str, Any]]:
        """Return the beats of a day: one a minute by cron, and sometimes one by a monitor."""
        rows = []
        for minute in range(1, 1_440):
            at = self.now - timedelta(minutes=minute, seconds=self.chance.uniform(0, 2))
            source = "198.51.100.9 uptime" if minute % 5 == 0 else "192.0.2.1 cron"
            runs = min(self.count, self.chance.randrange(4))
            counts = {"flows_due": runs, "flows_triggered": runs, "flows_succeeded": runs}
            duration = self.chance.lognormvariate(-2, 1)
            rows.append({"received_at": at, "source": source, "duration": duration, **counts})
        return rows[::-1]


def main(url: str, count: int) -> None:
    """Write the rows of `count` flows; without any flow, there is no history either."""
    filler = Filler(count)
    runs: list[dict[str, Any]] = []
    with Session(create_engine(url)) as session, session.begin():
        for number in range(count):
            flow = filler.flow(number)
            row = DataFlow(**flow)
            session.add(row)
            session.flush()
            mine = filler.runs(flow)
            if STATES.get(number % 40) == "running":
                mine.append(filler.running(mine[-1]))
            runs += [{**run, "data_flow_id": row.id} for run in mine]
        # As they would have been inserted.
        runs.sort(key=lambda run: run["created_at"])
        if runs:
            session.execute(insert(DataFlowRun), runs)
        if count:
            session.execute(insert(DataFlowBeat), filler.beats())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
