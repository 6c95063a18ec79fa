"""`heartbeat flows`: what there is."""

import json

import pytest
from sqlalchemy.orm import Session

from ..factories import NOON, data_flow
from .conftest import Command


def test_flows_lists_what_is_declared_before_the_first_beat(command: Command) -> None:
    result = command("flows")

    assert result.exit_code == 0
    for part in ("good", "bad", "every 5m", "enabled", "Count three rows."):
        assert part in result.output


def test_flows_prints_all_members_as_json(command: Command, dbsession: Session) -> None:
    dbsession.add(data_flow(name="off", handler="good", enabled=False, run_interval=90))
    dbsession.add(data_flow(name="stray", last_run_at=NOON, last_run_status="failed"))
    dbsession.commit()

    result = command("flows", "--json", flows="good")

    shown = {flow["name"]: flow for flow in json.loads(result.stdout)}
    assert list(shown) == ["good", "off", "stray"]
    assert (shown["off"]["enabled"], shown["off"]["every"]) == (False, "90s")
    assert shown["off"]["next_run_at"] is None
    assert "'stray' is not registered" in shown["stray"]["why"]
    assert shown["stray"]["last_run_at"] == NOON.isoformat()
    assert shown["stray"]["last_run_status"] == "failed"


def test_flows_prints_in_which_zone_cron_is_read(command: Command, dbsession: Session) -> None:
    zone = {"run_interval": None, "cron": "0 3 * * *", "timezone": "Europe/Berlin"}
    dbsession.add(data_flow(name="nightly", handler="good", **zone))
    dbsession.commit()

    assert "cron 0 3 * * * Europe/Berlin" in command("flows", flows="").output


def test_flows_states_that_there_are_none(command: Command) -> None:
    result = command("flows", flows="")

    assert (result.exit_code, result.output) == (0, "no flows\n")


@pytest.mark.usefixtures("somebody_writes")
def test_flows_does_not_wait_for_a_writer(command: Command) -> None:
    result = command("flows", flows="good", **{"heartbeat.lease": "3s"})

    assert result.exit_code == 0, result.output


def test_p16_a_row_whose_handler_is_not_registered_is_shown(
    command: Command, dbsession: Session
) -> None:
    dbsession.add(data_flow(name="stray", handler="os.system"))
    dbsession.commit()

    result = command("flows")

    assert "stray" in result.output
    assert "handler 'os.system'" in result.output
    assert "not registered" in result.output
