"""`heartbeat plan`: declared and stored schedules side by side, and the exit code."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from data_flows.heartbeat.models import DataFlow, table_of
from data_flows.heartbeat.optional.plan.members import Plan, PlannedFlow

from ..conftest import DATABASE
from ..factories import NOON, data_flow
from .planned import Options, call, write_ini

HEARTBEAT = Path(sys.executable).with_name("heartbeat")
EVERY = {"every": "5m"}
Ini = Callable[..., Path]


@pytest.fixture
def ini(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Ini:
    """Write the .ini file of an application with flows, each given by its options."""
    monkeypatch.delenv("DATABASE_URL", raising=False)

    def write(flows: dict[str, Options], **ini: Any) -> Path:
        return write_ini(tmp_path, database_url, flows, **ini)

    return write


def plan_of(file: Path, *arguments: str, exit_code: int = 0) -> Plan:
    """Return the plan, which is valid by its own schema."""
    result = call(file, "plan", "--json", *arguments)
    assert result.exit_code == exit_code, result.output
    return Plan.model_validate_json(result.stdout, extra="forbid")


def flow_of(plan: Plan, name: str) -> PlannedFlow:
    """Return one flow of a plan."""
    [flow] = [each for each in plan.flows if each.name == name]
    return flow


def kinds(plan: Plan) -> dict[str, list[str]]:
    """Return the kinds of differences by flow."""
    return {
        flow.name: [each.kind for each in flow.differences]
        for flow in plan.flows
        if flow.differences
    }


def rows(dbsession: Session) -> list[Any]:
    """Return all that is stored of flows."""
    dbsession.rollback()
    return [*dbsession.execute(select(table_of(DataFlow)).order_by(DataFlow.id))]


# ---------------------------------------------------------------------------------------------
# Differences


def test_a_flow_as_declared_is_no_difference(ini: Ini) -> None:
    file = ini({"a": EVERY, "b": {"cron": "0 3 * * *", "timezone": "Europe/Berlin"}})
    call(file, "flows")

    plan, shown = plan_of(file), call(file, "plan")

    assert plan.difference_count == 0
    assert flow_of(plan, "a").declared == flow_of(plan, "a").stored
    assert shown.exit_code == 0
    assert shown.output.endswith("\nno differences from the code\n")
    assert "cron 0 3 * * * Europe/Berlin  cron 0 3 * * * Europe/Berlin" in shown.output


def test_a_flow_without_a_row_is_planned_and_nothing_is_written(
    ini: Ini, dbsession: Session
) -> None:
    file = ini({"a": EVERY, "later": {**EVERY, "start": "next"}})

    plan, shown = plan_of(file, exit_code=1), call(file, "plan")

    assert kinds(plan) == {"a": ["not registered"], "later": ["not registered"]}
    assert flow_of(plan, "a").stored is None
    assert flow_of(plan, "a").next_slots[0] == NOON
    assert flow_of(plan, "later").next_slots[0] == NOON + timedelta(minutes=5)
    assert shown.exit_code == 1
    assert "- a: It has no row yet: the first beat after a restart adds it." in shown.output
    assert rows(dbsession) == []


def test_a_schedule_that_an_operator_changed_is_a_difference_until_it_is_reset(ini: Ini) -> None:
    call(ini({"a": EVERY}), "flows")
    file = ini({"a": EVERY}, now=NOON + timedelta(minutes=1))
    call(file, "change", "a", "--every", "10m")

    plan = plan_of(file, exit_code=1)

    flow = flow_of(plan, "a")
    assert kinds(plan) == {"a": ["changed by an operator"]}
    assert (flow.declared, flow.stored) == ("every 5m", "every 10m")
    assert flow.differences[0].why == (
        "An operator gave it every 10m: `heartbeat reset a` returns to the schedule of the code."
    )
    assert flow.slots == 7 * 144
    call(file, "reset", "a")
    assert plan_of(file).difference_count == 0


def test_another_time_zone_alone_is_a_difference(ini: Ini) -> None:
    file = ini({"a": {"cron": "0 3 * * *", "timezone": "Europe/Berlin"}})
    call(file, "change", "a", "--timezone", "Asia/Tokyo")

    plan = plan_of(file, exit_code=1)

    assert kinds(plan) == {"a": ["changed by an operator"]}
    assert [slot.hour for slot in flow_of(plan, "a").next_slots] == [18, 18, 18]


def test_a_schedule_changed_in_code_is_planned_as_it_will_be_adopted(
    ini: Ini, dbsession: Session
) -> None:
    call(ini({"a": EVERY}), "beat")
    file = ini({"a": {"every": "1h"}})
    before = rows(dbsession)

    plan = plan_of(file, exit_code=1)

    flow = flow_of(plan, "a")
    assert kinds(plan) == {"a": ["changed in code"]}
    assert "declares every 1h now" in flow.differences[0].why
    assert flow.next_slots[0] == NOON + timedelta(hours=1)
    assert rows(dbsession) == before
    call(file, "flows")  # adopts it
    adopted = plan_of(file)
    assert flow_of(adopted, "a").next_slots == flow.next_slots
    assert flow_of(adopted, "a").slots == flow.slots


def test_a_schedule_changed_by_an_operator_and_in_code_stays_the_operators(ini: Ini) -> None:
    call(ini({"a": EVERY}), "change", "a", "--every", "10m")
    file = ini({"a": {"every": "1h"}})

    plan = plan_of(file, exit_code=1)

    assert kinds(plan) == {"a": ["changed by an operator"]}
    assert flow_of(plan, "a").slots == 7 * 144


def test_an_operators_schedule_that_the_code_declares_now_is_no_difference(ini: Ini) -> None:
    call(ini({"a": EVERY}), "change", "a", "--every", "10m")

    assert plan_of(ini({"a": {"every": "10m"}})).difference_count == 0


def test_a_flow_removed_from_the_code_is_a_difference_without_slots(ini: Ini) -> None:
    call(ini({"a": EVERY, "gone": EVERY}), "flows")

    plan = plan_of(ini({"a": EVERY}), exit_code=1)

    flow = flow_of(plan, "gone")
    assert kinds(plan) == {"gone": ["unknown handler"]}
    assert flow.declared is None
    assert (flow.slots, flow.next_slots) == (0, [])
    assert "'gone' is not registered" in flow.differences[0].why


def test_an_added_flow_with_its_own_schedule_is_no_difference(ini: Ini) -> None:
    file = ini({"a": {**EVERY, "between": "22:00-06:00", "catch_up": "skip", "grace": "2m"}})
    call(file, "add", "b", "--handler", "a", "--every", "1h")

    flow = flow_of(plan_of(file), "b")
    assert (flow.declared, flow.stored) == (None, "every 1h")
    assert flow.slots == 7 * 8


def test_a_renamed_flow_leaves_the_declared_one_without_a_row(ini: Ini) -> None:
    file = ini({"a": EVERY})
    call(file, "rename", "a", "b")

    assert kinds(plan_of(file, exit_code=1)) == {"a": ["not registered"]}


def test_a_row_of_a_declared_name_that_calls_another_handler_is_a_difference(ini: Ini) -> None:
    file = ini({"a": EVERY})
    call(file, "add", "b", "--handler", "a", "--every", "5m")

    plan = plan_of(ini({"a": EVERY, "b": EVERY}), exit_code=1)

    assert kinds(plan) == {"b": ["other handler"]}
    assert "its row calls 'a'" in flow_of(plan, "b").differences[0].why


def test_a_disabled_flow_is_a_difference_with_its_reason(ini: Ini) -> None:
    file = ini({"a": EVERY})
    call(file, "pause", "a", "--reason", "server migration")

    plan = plan_of(file, exit_code=1)

    flow = flow_of(plan, "a")
    assert kinds(plan) == {"a": ["disabled"]}
    assert "server migration" in flow.differences[0].why
    assert (flow.slots, flow.next_slots) == (0, [])
    call(file, "resume", "a")
    assert plan_of(file).difference_count == 0


def test_another_daily_window_in_code_moves_the_next_slot(ini: Ini) -> None:
    call(ini({"a": {"every": "1h", "start": "next"}}), "flows")
    file = ini({"a": {"every": "1h", "start": "next", "between": "22:00-06:00"}})

    # The row has 13:00 still, which a beat passes over.
    assert flow_of(plan_of(file), "a").next_slots[0] == datetime(2026, 3, 1, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"timezone": "Mars/Olympus"}, "'Mars/Olympus' is not an IANA time zone"),
        ({"run_interval": None, "cron": "61 * * * *"}, "not a valid cron expression"),
        ({"run_interval": None, "cron": "0 0 30 2 *"}, "not a valid cron expression"),
    ],
)
def test_an_invalid_stored_schedule_is_a_difference_and_stops_no_other_flow(
    ini: Ini, dbsession: Session, stored: dict[str, Any], words: str
) -> None:
    file = ini({"a": EVERY, "b": EVERY})
    call(file, "flows")
    dbsession.execute(update(DataFlow).where(DataFlow.name == "a").values(**stored))
    dbsession.commit()

    plan = plan_of(file, exit_code=1)

    assert "invalid schedule" in kinds(plan)["a"]
    assert words in flow_of(plan, "a").differences[-1].why
    assert flow_of(plan, "b").slots == 2016


def test_an_unreadable_row_is_a_difference_and_is_not_disabled(
    ini: Ini, dbsession: Session
) -> None:
    file = ini({"a": EVERY, "b": EVERY})
    call(file, "flows")
    unreadable = {"sqlite": "'x'", "postgresql": "'infinity'", "mysql": "'9999-12-31'"}[DATABASE]
    dbsession.execute(
        text(f"UPDATE data_flows SET next_run_at = {unreadable} WHERE name = 'a'")  # noqa: S608
    )
    dbsession.commit()

    plan = plan_of(file, exit_code=1)

    assert kinds(plan) == {"a": ["unreadable"]}
    assert "column next_run_at is not valid" in flow_of(plan, "a").differences[0].why
    dbsession.rollback()
    enabled = select(DataFlow.enabled).where(DataFlow.name == "a")
    assert dbsession.scalars(enabled).one() is True


def test_hostile_names_are_escaped_and_quoted(ini: Ini, dbsession: Session) -> None:
    dbsession.add(data_flow(name="x\x1b[31m\nforged: all is well", handler="[bold]no"))
    dbsession.commit()
    file = ini({"$(reboot)": EVERY, "Käuzchen 🦉": EVERY})
    call(file, "change", "$(reboot)", "--every", "10m")

    shown = call(file, "plan")

    assert "\x1b" not in shown.output
    assert "\nforged" not in shown.output
    assert "'[bold]no' is not registered" in shown.output
    assert "`heartbeat reset '$(reboot)'`" in shown.output
    assert "Käuzchen 🦉" in shown.output
    assert {flow.name for flow in plan_of(file, exit_code=1).flows} == {
        "$(reboot)",
        "Käuzchen 🦉",
        "x\x1b[31m\nforged: all is well",
    }


# ---------------------------------------------------------------------------------------------
# The command


def test_without_flows_there_is_nothing_to_plan(ini: Ini) -> None:
    shown = call(ini({}), "plan")

    assert shown.exit_code == 0
    assert shown.output.startswith("no flows\n")
    assert plan_of(ini({})).flows == []


@pytest.mark.parametrize("days", ["0", "-1", "367", "week", "1.5"])
def test_invalid_days_are_refused(ini: Ini, days: str) -> None:
    result = call(ini({"a": EVERY}), "plan", f"--days={days}")

    assert result.exit_code == 2
    assert "--days" in result.output


def test_a_database_that_is_not_migrated_is_one_clear_line(
    ini: Ini, narrow_database_url: str
) -> None:
    result = call(ini({"a": EVERY}, **{"sqlalchemy.url": narrow_database_url}), "plan")

    [line] = result.output.splitlines()
    assert result.exit_code == 1
    assert line.startswith("Error: ")
    assert "run `heartbeat migrate`" in line


def test_a_database_that_cannot_be_reached_is_one_clear_line(ini: Ini) -> None:
    url = "sqlite:////no/such/folder/none.sqlite"

    result = call(ini({"a": EVERY}, **{"sqlalchemy.url": url}), "plan", "--json")

    [line] = result.output.splitlines()
    assert result.exit_code == 1
    assert "cannot be reached" in line


@pytest.mark.usefixtures("somebody_writes")
def test_a_row_that_is_locked_delays_no_plan(ini: Ini) -> None:
    result = call(ini({"good": EVERY}, now=None, **{"heartbeat.lease": "3s"}), "plan")

    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(("change", "exit_code"), [([], 0), (["pause", "a"], 1)])
def test_the_exit_code_reaches_a_shell_through_a_pipe(
    ini: Ini, change: list[str], exit_code: int
) -> None:
    file = ini({"a": EVERY}, now=None)
    call(file, "flows")
    if change:
        call(file, *change)
    root = Path(__file__).parents[3]
    pipe = f"{HEARTBEAT} plan -c {file} | tail -1; exit ${{PIPESTATUS[0]}}"

    done = subprocess.run(  # noqa: S603 - our own command
        ["/bin/bash", "-c", pipe],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=False,
        text=True,
    )

    assert (done.returncode, done.stderr) == (exit_code, "")
    assert done.stdout.startswith("- a: It is disabled" if change else "no differences")


def test_the_members_are_described_by_a_schema(ini: Ini) -> None:
    result = call(ini({"a": EVERY}), "plan", "--json")

    assert json.loads(result.stdout).keys() == Plan.model_json_schema()["properties"].keys()
