"""Days on which clocks are set, lived through HTTP by flows of every kind, one slot after another.

What they ought to run comes from a plain reference that looks at each minute: plain_clock.py.
"""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from data_flows.heartbeat import Run
from data_flows.heartbeat.durations import parse_every
from data_flows.heartbeat.models import DataFlow, DataFlowRun

from ..conftest import FakeClock, MakeApp, heartbeat_of
from ..plain_clock import cron_times, each, shows

Post = Callable[..., Any]
Options = dict[str, Any]

MINUTE, HALF_HOUR = timedelta(minutes=1), timedelta(minutes=30)
WEEK = timedelta(days=8)
ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]
CRONS = [
    *("0 * * * *", "30 2 * * *", "15 */3 * * *", "45 1,2,3 * * *", "*/30 1-3 * * *", "@daily"),
    *("0 12 * * MON-FRI", "20 2 29-31 * SUN"),
]
INTERVALS = ["30m", "45m", "90m", "6h", "1d"]
WINDOWS = ["22:00-06:00", "01:45-03:15", "09:00-17:00"]
# Of slots that come more often than beats, each runs all the same.
MORE: list[Options] = [
    {"every": "11m", "catch_up": "all", "between": "00:00-06:00", "timezone": ZONES[0]},
    {"every": None, "cron": "*/10 2 * * *", "catch_up": "all", "timezone": ZONES[0]},
    {"every": None, "cron": "*/10 1 * * *", "catch_up": "all", "timezone": ZONES[2]},
    {"every": "1h", "catch_up": "skip", "grace": "30m"},
]
KINDS: list[Options] = [
    *(
        {
            "every": None,
            "cron": cron,
            "timezone": zone,
            "catch_up": "all" if "," in cron else "once",
        }
        for cron in CRONS
        for zone in ZONES
    ),
    *({"every": every, "start": start} for every in INTERVALS for start in ("now", "next")),
    *(
        {"every": "40m", "between": between, "timezone": zone}
        for between in WINDOWS
        for zone in ZONES
    ),
    *MORE,
]


def nothing(_run: Run) -> None:
    """Do nothing."""


def expected_slots(kind: Options, beats: list[tuple[datetime, datetime]]) -> list[datetime]:
    """Give the slots of a flow that is registered by the first of these beats.

    Each has its begin and its end: one that comes early waits for slots in between.
    """
    zone, between, cron = kind.get("timezone", "UTC"), kind.get("between"), kind.get("cron")
    if cron:
        until = beats[-1][1] + timedelta.resolution
        begin = beats[0][0].replace(second=0, microsecond=0)
        times = cron_times([cron], zone, begin, until)[cron]
        slots = [slot for slot in times if slot > beats[0][0]]
    else:
        step = timedelta(seconds=parse_every(kind["every"]))
        starts = beats[0][0] + step * (kind.get("start") == "next")
        while not shows(between, zone, starts):
            starts = starts.replace(second=0, microsecond=0) + MINUTE
        # The grid begins with the first claim.
        claims = (max(begin, starts) for begin, end in beats if starts <= end)
        first = next(claim for claim in claims if shows(between, zone, claim))
        slots = list(each(first, beats[-1][1] + timedelta.resolution, step))
    return [slot for slot in slots if shows(between, zone, slot)]


@pytest.mark.parametrize(
    "begin",
    [
        # Berlin is set ahead on 29 March, Lord Howe back on 5 April.
        datetime(2026, 3, 28, 20, tzinfo=UTC),
        # Berlin is set back on 25 October, New York on 1 November.
        datetime(2026, 10, 24, 20, tzinfo=UTC),
    ],
)
def test_flows_of_every_kind_run_each_slot_once_while_clocks_are_set(
    make_app: MakeApp, post: Post, clock: FakeClock, begin: datetime
) -> None:
    clock.time = begin
    chance = random.Random(1)  # noqa: S311 - a simulation, and the seed repeats it
    app = make_app(*((nothing, {"name": f"{at}", **kind}) for at, kind in enumerate(KINDS)))

    beats = []
    for planned in each(begin, begin + WEEK, HALF_HOUR):
        clock.advance((planned - clock.now()).total_seconds() + chance.uniform(0, 25))
        began = clock.now()
        post(app)
        beats.append((began, clock.now()))

    with heartbeat_of(app).session() as session:
        statement = select(DataFlow.name, DataFlowRun).join(DataFlow.runs)
        rows = session.execute(statement.order_by(DataFlowRun.id)).all()
        early = select(DataFlowRun.id).where(DataFlowRun.started_at < DataFlowRun.scheduled_for)
        assert session.scalars(early).all() == []
    for at, kind in enumerate(KINDS):
        slots = [run.scheduled_for for name, run in rows if name == f"{at}"]
        assert slots == expected_slots(kind, beats), kind
    assert {(run.status, run.missed_slots) for _, run in rows} == {("success", 0)}
    assert len(KINDS) > 50
