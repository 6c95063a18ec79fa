"""The forecast of `heartbeat plan`: slots over clock changes, busy hours, and collisions."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from data_flows.heartbeat.models import DataFlow
from data_flows.heartbeat.optional.plan.members import Plan, PlannedFlow

from ..factories import NOON
from .planned import Options, call, write_ini

# Europe/Berlin: the hour from 2:00 is skipped on 29 March 2026, and repeated on 25 October.
SPRING, AUTUMN = datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)
BERLIN = {"timezone": "Europe/Berlin"}
PlanOf = Callable[..., Plan]
Succeed = Callable[..., None]


@pytest.fixture
def plan_of(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> PlanOf:
    """Register flows, and return their plan."""
    monkeypatch.delenv("DATABASE_URL", raising=False)

    def plan(flows: dict[str, Options], *arguments: str, **ini: Any) -> Plan:
        file = write_ini(tmp_path, database_url, flows, **ini)
        call(file, "flows")
        result = call(file, "plan", "--json", *arguments)
        assert result.exit_code == 0, result.output
        return Plan.model_validate_json(result.stdout)

    return plan


@pytest.fixture
def succeed(plan_of: PlanOf, dbsession: Session) -> Succeed:
    """Register flows, and record that one of them has succeeded this many times."""

    def record(flows: dict[str, Options], name: str, count: int, seconds: float) -> None:
        plan_of(flows)
        row = update(DataFlow).where(DataFlow.name == name)
        dbsession.execute(row.values(success_count=count, success_seconds=seconds))
        dbsession.commit()

    return record


def flow_of(plan: Plan, name: str) -> PlannedFlow:
    """Return one flow of a plan."""
    [flow] = [each for each in plan.flows if each.name == name]
    return flow


# ---------------------------------------------------------------------------------------------
# Slots


@pytest.mark.parametrize(
    ("now", "options", "slots", "first"),
    [
        # Right after the skipped hour, and once in the repeated one.
        (SPRING, {"cron": "30 2 * * *", **BERLIN}, 1, "2026-03-29T01:00"),
        (AUTUMN, {"cron": "30 2 * * *", **BERLIN}, 1, "2026-10-25T00:30"),
        # The hours of UTC, after 12:00 and before 12:00: local time has one less, or one more.
        (SPRING, {"cron": "0 * * * *", **BERLIN}, 23, "2026-03-28T13:00"),
        (AUTUMN, {"cron": "0 * * * *", **BERLIN}, 23, "2026-10-24T13:00"),
        (SPRING, {"every": "30m", "between": "01:00-04:00", **BERLIN}, 4, "2026-03-29T00:00"),
        (AUTUMN, {"every": "30m", "between": "01:00-04:00", **BERLIN}, 8, "2026-10-24T23:00"),
    ],
)
def test_the_slots_of_a_day_on_which_the_clock_changes(
    plan_of: PlanOf, now: datetime, options: Options, slots: int, first: str
) -> None:
    flow = flow_of(plan_of({"a": options}, "--days", "1", now=now), "a")

    assert flow.slots == slots
    assert flow.next_slots[0] == datetime.fromisoformat(first).replace(tzinfo=UTC)


def test_a_forecast_has_the_count_the_next_and_the_last_slots_of_a_flow(plan_of: PlanOf) -> None:
    flow = flow_of(plan_of({"a": {"cron": "0 3 * * MON-FRI"}}, "--days", "14"), "a")

    assert flow.slots == 10
    assert [slot.day for slot in flow.next_slots] == [2, 3, 4]
    assert flow.last_slot == datetime(2026, 3, 13, 3, tzinfo=UTC)


def test_an_overdue_flow_that_never_ran_begins_its_grid_now(plan_of: PlanOf) -> None:
    flows = {"a": {"every": "1h", "start": "next"}, "b": {"every": "1h", "catch_up": "all"}}
    plan_of(flows, now=NOON - timedelta(hours=5, minutes=20))

    plan = plan_of(flows, now=NOON)

    hours = [NOON + timedelta(hours=count) for count in range(3)]
    assert flow_of(plan, "a").next_slots == flow_of(plan, "b").next_slots == hours
    assert flow_of(plan, "a").slots == flow_of(plan, "b").slots == 168


@pytest.mark.parametrize("catch_up", ["once", "all"])
def test_an_overdue_flow_that_has_run_stays_on_its_grid(
    tmp_path: Path, database_url: str, plan_of: PlanOf, catch_up: str
) -> None:
    flows: dict[str, Options] = {"a": {"every": "1h", "catch_up": catch_up}}
    at_6_40 = NOON - timedelta(hours=5, minutes=20)
    call(write_ini(tmp_path, database_url, flows, now=at_6_40), "beat")

    flow = flow_of(plan_of(flows), "a")

    minutes = [(slot - NOON) // timedelta(minutes=1) for slot in flow.next_slots]
    assert minutes == [0, 40, 100]
    assert flow.slots == 1 + 7 * 24


def test_a_yearly_flow_shows_its_next_slot_beyond_the_forecast(plan_of: PlanOf) -> None:
    flow = flow_of(plan_of({"a": {"cron": "@yearly"}}), "a")

    assert (flow.slots, flow.last_slot) == (0, None)
    assert flow.next_slots[0] == datetime(2027, 1, 1, tzinfo=UTC)


def test_slots_are_counted_up_to_a_limit_which_is_printed(
    plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_flows.heartbeat.optional.plan.forecast.MAX_SLOTS", 1_000)

    plan = plan_of({"a": {"every": "1s"}, "b": {"every": "1s"}, "daily": {"cron": "0 3 * * *"}})

    assert plan.counted_until == NOON + timedelta(seconds=1_000)
    assert flow_of(plan, "a").slots == flow_of(plan, "b").slots == 1_000
    assert (flow_of(plan, "daily").slots, len(flow_of(plan, "daily").next_slots)) == (0, 3)
    assert plan.assumptions[-1].startswith("Slots are counted until 2026-03-01 12:16:40 UTC")


def test_a_flow_of_each_second_is_counted(plan_of: PlanOf) -> None:
    plan = plan_of({"a": {"every": "1s"}}, "--days", "1")

    flow = flow_of(plan, "a")
    assert flow.slots == 86_400
    assert flow.last_slot == NOON + timedelta(days=1, seconds=-1)
    assert len(plan.model_dump_json()) < 10_000


def test_many_flows_are_a_bounded_number_of_lines(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    flows = {f"f{number:04}": {"every": "1m"} for number in range(1_000)}

    shown = call(write_ini(tmp_path, database_url, flows), "plan")

    assert shown.output.count("\nand 800 more") == 2
    assert shown.output.count("\n- f0") == 1_000
    assert len(shown.output.splitlines()) < 1_500


# ---------------------------------------------------------------------------------------------
# Busy hours and collisions


def test_a_run_takes_the_mean_of_the_successes(plan_of: PlanOf, succeed: Succeed) -> None:
    flows = {"a": {"cron": "30 3 * * *"}, "new": {"cron": "0 3 2 3 *"}}
    succeed(flows, "a", 4, 152.0)

    plan = plan_of(flows)

    assert flow_of(plan, "a").usual_seconds == 38.0
    assert flow_of(plan, "new").usual_seconds == 1.0
    busiest = plan.busiest_hours[0]
    assert busiest.begin == datetime(2026, 3, 2, 3, tzinfo=UTC)
    assert (busiest.slots, busiest.busy_seconds) == (2, 39.0)
    assert [hour.busy_seconds for hour in plan.busiest_hours[1:]] == [38.0] * 6


@pytest.mark.parametrize(("workers", "overloaded"), [(1, 7), (2, 0)])
def test_hours_with_more_work_than_the_workers_can_do_are_counted(
    plan_of: PlanOf, succeed: Succeed, workers: int, overloaded: int
) -> None:
    flows = {"a": {"cron": "0 3 * * *"}, "b": {"cron": "30 3 * * *"}}
    for name in flows:
        succeed(flows, name, 1, 2_000.0)

    plan = plan_of(flows, **{"heartbeat.workers": str(workers)})

    assert plan.overloaded_hours == overloaded
    assert plan.collisions == []


def test_flows_that_are_due_at_once_on_few_workers_are_named(plan_of: PlanOf) -> None:
    flows: dict[str, Options] = {name: {"cron": "0 3 * * *"} for name in ("a", "b", "c")}
    flows |= {"monday": {"cron": "0 3 * * MON"}, "later": {"cron": "1 3 * * *"}}

    plan = plan_of(flows, **{"heartbeat.workers": "2"})

    monday, others = plan.collisions
    assert plan.collision_count == 2
    assert monday.model_dump() == {
        "first": datetime(2026, 3, 2, 3, tzinfo=UTC),
        "times": 1,
        "flow_count": 4,
        "flows": ["a", "b", "c", "monday"],
    }
    assert (others.first.day, others.times, others.flows) == (3, 6, ["a", "b", "c"])
    assert plan_of(flows, **{"heartbeat.workers": "4"}).collision_count == 0


def test_busy_hours_and_collisions_are_printed(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    flows = {f"f{number}": {"cron": "0 3 * * *"} for number in range(7)}

    lines = call(write_ini(tmp_path, database_url, flows), "plan").output.splitlines()

    assert "Hours with more work than the workers can do: no hours" in lines
    assert any(line.split() == ["2026-03-02", "03:00:00", "7", "7.000", "0.0%"] for line in lines)
    assert "More flows due at once than there are workers: 1 time" in lines
    assert any(line.rstrip().endswith("f0, f1, f2, f3, f4 and 2 more") for line in lines)
