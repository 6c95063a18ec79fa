"""The command `backfill`: a span of the past, window by window, beside the schedule."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pyramid.config import Configurator
from pyramid.router import Router
from sqlalchemy import select
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run
from data_flows.heartbeat.cli import main
from data_flows.heartbeat.models import DataFlow, DataFlowRun
from data_flows.heartbeat.run import Window
from data_flows.heartbeat.runs.claim import take_pending
from data_flows.heartbeat.runs.execute import execute
from data_flows.heartbeat.runs.register import register
from data_flows.heartbeat.runs.request import ask_for_run, lock_flow

from ..conftest import TOKEN, FakeClock, MakeApp, heartbeat_of
from ..factories import data_flow_run

DAY = datetime(2026, 2, 1, tzinfo=UTC)
Backfill = Callable[..., Result]

# What the flow below does and did, in this process: the command runs it here.
broken: set[datetime] = set()
worked: list[tuple[datetime, datetime]] = []
# What is to happen while it works.
beats: list[Callable[[], None]] = []


def work(run: Run) -> None:
    """Note the window, unless it is a broken one."""
    if run.window.start in broken:
        message = "no such day"
        raise LookupError(message)
    worked.append((run.window.start, run.window.end))
    for beat in beats:
        beat()


def application(_global_config: dict[str, str], **settings: Any) -> Router:
    """Make the application of the .ini file below."""
    with Configurator(settings=settings) as config:
        config.include("data_flows.heartbeat")
        config.add_flow(work, every="1d", retries=2)
        app: Router = config.make_wsgi_app()
        return app


@pytest.fixture
def backfill(tmp_path: Path, database_url: str) -> Backfill:
    """Call `heartbeat backfill work`."""
    broken.clear()
    worked.clear()
    file = tmp_path / "backfill.ini"
    url = database_url.replace("%", "%%")
    lines = ("[app:main]", f"use = call:{__name__}:application", f"sqlalchemy.url = {url}")
    file.write_text("\n".join([*lines, f"heartbeat.token = {TOKEN}", ""]))

    def call(since: str, until: str, name: str = "work") -> Result:
        arguments = ["backfill", name, "--from", since, "--to", until, "-c", str(file)]
        return CliRunner().invoke(main, arguments)

    return call


def flow_of(dbsession: Session) -> DataFlow:
    """Return the flow's row as it is now."""
    dbsession.rollback()
    return dbsession.scalars(select(DataFlow)).one()


def days(*numbers: int) -> list[tuple[datetime, datetime]]:
    """Return the windows of these days after the first."""
    return [(DAY + timedelta(days=day), DAY + timedelta(days=day + 1)) for day in numbers]


def test_each_window_runs_once_oldest_first_and_the_last_is_cut(
    backfill: Backfill, dbsession: Session
) -> None:
    result = backfill("2026-02-01", "2026-02-04T06:00")

    assert (result.exit_code, result.stdout) == (
        0,
        "work: 4 windows run, 0 had succeeded before\n",
    )
    rest = (DAY + timedelta(days=3), DAY + timedelta(days=3, hours=6))
    assert worked == [*days(0, 1, 2), rest]
    runs = dbsession.scalars(select(DataFlowRun).order_by(DataFlowRun.id)).all()
    assert [(run.window_start, run.window_end) for run in runs] == worked
    assert {(run.trigger, run.scheduled_for, run.status) for run in runs} == {
        ("backfill", None, "success")
    }


def test_a_backfill_advances_nothing(backfill: Backfill, dbsession: Session) -> None:
    backfill("2026-02-01", "2026-02-02")
    before = flow_of(dbsession)
    kept = (before.next_run_at, before.last_slot_at, before.window_starts_at)

    backfill("2026-02-02", "2026-02-05")

    after = flow_of(dbsession)
    assert (after.next_run_at, after.last_slot_at, after.window_starts_at) == kept
    assert kept[1:] == (None, None)


def test_a_window_that_fails_is_the_last_and_the_next_call_goes_on_there(
    backfill: Backfill, dbsession: Session
) -> None:
    broken.add(DAY + timedelta(days=1))

    failed = backfill("2026-02-01", "2026-02-04")
    broken.clear()
    mended = backfill("2026-02-01", "2026-02-04")

    assert failed.exit_code == 1
    assert failed.stderr.splitlines()[-1] == (
        "Error: 2026-02-02T00:00:00+00:00 to 2026-02-03T00:00:00+00:00 failed: "
        "LookupError: no such day"
    )
    assert (mended.exit_code, mended.stdout) == (
        0,
        "work: 2 windows run, 1 had succeeded before\n",
    )
    assert worked == days(0, 1, 2)
    statuses = dbsession.scalars(select(DataFlowRun.status).order_by(DataFlowRun.id)).all()
    assert statuses == ["success", "failed", "success", "success"]


def test_another_cut_of_a_span_is_other_work(backfill: Backfill) -> None:
    backfill("2026-02-01", "2026-02-02")

    assert "2 windows run, 0 had" in backfill("2026-02-01T12:00", "2026-02-03").stdout


@pytest.mark.parametrize("zone", ["", "+01:00"])
def test_times_without_a_zone_are_in_the_flows(
    backfill: Backfill, dbsession: Session, zone: str
) -> None:
    backfill("2026-01-01", "2026-01-02")
    flow_of(dbsession).timezone = "Europe/Berlin"
    dbsession.commit()
    worked.clear()

    backfill(f"2026-02-01T01:00{zone}", f"2026-02-02T01:00{zone}")

    assert worked == days(0)


def test_windows_of_cron_are_its_slots(backfill: Backfill, dbsession: Session) -> None:
    backfill("2026-01-01", "2026-01-02")
    flow = flow_of(dbsession)
    flow.run_interval, flow.cron = None, "0 0 * * *"
    dbsession.commit()
    worked.clear()

    backfill("2026-02-01", "2026-02-03")

    assert worked == days(0, 1)


@pytest.mark.parametrize(
    ("since", "until"),
    [("2026-02-02", "2026-02-01"), ("2026-02-01", "2026-02-01"), ("2026-02-01", "2999-01-01")],
)
def test_a_span_that_cannot_be_is_refused(backfill: Backfill, since: str, until: str) -> None:
    result = backfill(since, until)

    assert result.exit_code == 1
    assert result.output == "Error: --to: must lie after --from, and not in the future\n"
    assert worked == []


def test_a_time_that_cannot_be_read_is_named(backfill: Backfill) -> None:
    result = backfill("yesterday", "2026-02-01")

    assert result.exit_code == 2
    assert "Invalid value for '--from'" in result.output


def test_a_flow_that_does_not_exist_is_one_clear_line(backfill: Backfill) -> None:
    result = backfill("2026-02-01", "2026-02-02", name="nope")

    assert result.exit_code == 1
    assert result.output == "Error: no flow is called 'nope': `heartbeat flows` lists them\n"


def test_a_disabled_flow_can_be_backfilled(backfill: Backfill, dbsession: Session) -> None:
    backfill("2026-01-01", "2026-01-02")
    flow_of(dbsession).enabled = False
    dbsession.commit()
    worked.clear()

    backfill("2026-02-01", "2026-02-02")

    assert worked == days(0)


def test_a_run_under_way_is_waited_for(backfill: Backfill, dbsession: Session) -> None:
    backfill("2026-01-01", "2026-01-02")
    worked.clear()
    lease = datetime.now(UTC) + timedelta(days=1)
    run = data_flow_run(
        data_flow=flow_of(dbsession), status="in_progress", started_at=DAY, lease_expires_at=lease
    )
    dbsession.add(run)
    dbsession.commit()
    results: list[Result] = []
    waiting = threading.Thread(target=lambda: results.append(backfill("2026-02-01", "2026-02-02")))
    waiting.start()

    waiting.join(1.5)
    assert waiting.is_alive()
    assert worked == []
    run.succeed(DAY + timedelta(hours=1))
    dbsession.commit()
    waiting.join(30)

    assert results[0].exit_code == 0
    assert worked == days(0)


# ---------------------------------------------------------------------------------------------
# Beside the schedule


def waiting_retry(dbsession: Session, backfill: Backfill, due: datetime) -> DataFlowRun:
    """Store an attempt of the flow that waits to be retried."""
    backfill("2026-01-01", "2026-01-02")
    worked.clear()
    run = data_flow_run(
        data_flow=flow_of(dbsession),
        trigger="retry",
        attempt=2,
        scheduled_for=DAY,
        not_before=due,
        created_at=DAY,
    )
    dbsession.add(run)
    dbsession.commit()
    return run


def test_a_retry_that_waits_is_named_and_waited_for(backfill: Backfill, dbsession: Session) -> None:
    due = datetime.now(UTC) + timedelta(hours=1)
    run = waiting_retry(dbsession, backfill, due)
    results: list[Result] = []
    waiting = threading.Thread(target=lambda: results.append(backfill("2026-02-01", "2026-02-02")))
    waiting.start()

    waiting.join(1.5)
    assert waiting.is_alive()
    flow = flow_of(dbsession)
    assert flow.backfill_until is not None
    # As a beat does that has executed it.
    run.start(DAY)
    run.succeed(DAY)
    dbsession.commit()
    waiting.join(30)

    assert results[0].exit_code == 0
    assert f"work: waiting: run {run.id} (retry, attempt 2) is pending" in results[0].stderr
    assert f"due at {due:%Y-%m-%d %H:%M:%S} UTC" in results[0].stderr
    assert worked == days(0)


def test_the_schedule_waits_for_a_backfill_and_goes_on_after_it(
    backfill: Backfill,
    dbsession: Session,
    make_app: MakeApp,
    post: Callable[..., Any],
    clock: FakeClock,
) -> None:
    clock.time = datetime.now(UTC)
    app = make_app((work, {"name": "work", "every": "1d"}))
    held = list[datetime | None]()
    beats.append(lambda: held.append(flow_of(dbsession).backfill_until))

    result = backfill("2026-02-01", "2026-02-04")
    beats.clear()

    assert result.exit_code == 0
    assert len(held) == 3
    assert all(until is not None and until > datetime.now(UTC) for until in held)
    assert flow_of(dbsession).backfill_until is None
    assert post(app).json["flows_succeeded"] == 1


def test_the_schedule_waits_between_two_windows_of_a_backfill(
    make_app: MakeApp, post: Callable[..., Any], clock: FakeClock
) -> None:
    app = make_app((work, {"name": "work", "every": "1d"}))
    heartbeat = heartbeat_of(app)
    register(heartbeat)
    with heartbeat.session() as session:
        flow = lock_flow(session, heartbeat, "work")
        requested = ask_for_run(session, heartbeat, flow, Window(*days(0)[0]))
        [claimed] = take_pending(session, heartbeat, [requested])
    assert execute(heartbeat, claimed) == "success"

    between = post(app).json
    clock.advance(61)
    later = post(app).json

    assert (between["flows_due"], between["flows_triggered"]) == (0, 0)
    assert (later["flows_due"], later["flows_succeeded"]) == (1, 1)


def test_the_schedule_goes_on_a_minute_after_a_backfill_that_was_killed(
    backfill: Backfill,
    dbsession: Session,
    make_app: MakeApp,
    post: Callable[..., Any],
    clock: FakeClock,
) -> None:
    backfill("2026-01-01", "2026-01-02")
    app = make_app((work, {"name": "work", "every": "1d"}))
    clock.time = datetime.now(UTC)
    flow_of(dbsession).backfill_until = clock.now() + timedelta(seconds=60)
    dbsession.commit()

    before = post(app).json
    clock.advance(61)
    after = post(app).json

    assert (before["flows_due"], after["flows_succeeded"]) == (0, 1)


def test_a_retry_of_a_disabled_flow_is_not_waited_for(
    backfill: Backfill, dbsession: Session
) -> None:
    waiting_retry(dbsession, backfill, DAY)
    flow_of(dbsession).enabled = False
    dbsession.commit()

    result = backfill("2026-02-01", "2026-02-02")

    assert result.exit_code == 1
    assert "the flow is disabled: `heartbeat resume work`" in result.stderr
    assert flow_of(dbsession).backfill_until is None


def test_a_retry_that_no_beat_claims_is_not_waited_for(
    backfill: Backfill, dbsession: Session
) -> None:
    waiting_retry(dbsession, backfill, DAY)

    result = backfill("2026-02-01", "2026-02-02")

    assert result.exit_code == 1
    assert "no beat has claimed it: check that the scheduler calls" in result.stderr


def test_a_run_of_a_dead_process_is_not_waited_for(backfill: Backfill, dbsession: Session) -> None:
    backfill("2026-01-01", "2026-01-02")
    run = data_flow_run(
        data_flow=flow_of(dbsession), status="in_progress", started_at=DAY, lease_expires_at=DAY
    )
    dbsession.add(run)
    dbsession.commit()

    result = backfill("2026-02-01", "2026-02-02")

    assert result.exit_code == 1
    assert "its lease has expired and no beat has reaped it" in result.stderr
