"""Time zones: IANA's names alone are accepted, wherever a zone is given."""

import zoneinfo
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.errors import DeclarationError
from data_flows.heartbeat.models import DataFlow
from data_flows.heartbeat.schedules.between import read_zone

from ..conftest import FakeClock, MakeApp
from ..entrances import both_entrances
from .conftest import Command
from .operated import SECRET, Call, add_flow, as_operator, count, row_of

TZDATA = files("tzdata")
# ZoneInfo reads each of these where the machine's folder of zones has such a file.
STRAY = [
    *("localtime", "posixrules", "posix/Europe/Berlin", "right/Europe/Berlin"),
    *("europe/berlin", "EUROPE/BERLIN", "utc", "mine"),
]
NAMES = [*STRAY, "Factory", "zone.tab", "/etc/localtime", "Europe", ".", "Europe//Berlin"]


@pytest.fixture(autouse=True)
def _folder_of_zones(tmp_path: Path) -> Iterator[None]:
    """Give ZoneInfo a folder with files that many machines have, whatever this one has."""
    for name in STRAY:
        (tmp_path / "zones" / name).parent.mkdir(parents=True, exist_ok=True)
        berlin = TZDATA.joinpath("zoneinfo", "Europe", "Berlin").read_bytes()
        (tmp_path / "zones" / name).write_bytes(berlin)
    zoneinfo.reset_tzpath([str(tmp_path / "zones"), *zoneinfo.TZPATH])
    yield
    zoneinfo.reset_tzpath()
    zoneinfo.ZoneInfo.clear_cache()


@pytest.fixture
def app(make_app: MakeApp) -> TestApp:
    """Make an application with the handler `count`, which operators may use."""
    return make_app((count, {"start": "next"}), **SECRET)


@pytest.fixture
def call(app: TestApp) -> Call:
    """Call a resource as the operator."""
    return as_operator(app)


def test_each_name_of_iana_is_accepted() -> None:
    names = TZDATA.joinpath("zones").read_text().split()

    assert len(names) > 500
    assert {read_zone(name).key for name in names if name != "Factory"} == {*names} - {"Factory"}


@pytest.mark.parametrize("name", STRAY)
def test_the_machine_has_a_file_of_that_name(name: str) -> None:
    assert zoneinfo.ZoneInfo(name).utcoffset(None) is None


@both_entrances
@pytest.mark.parametrize("name", NAMES)
def test_another_name_is_refused_in_code(make_app: MakeApp, name: str) -> None:
    with pytest.raises(DeclarationError) as raised:
        make_app((count, {"every": None, "cron": "0 3 * * *", "timezone": name}))

    assert f"timezone is {name!r}: {name!r} is not an IANA time zone" in str(raised.value)
    assert 'such as "Europe/Berlin", or "UTC"' in str(raised.value)


@pytest.mark.parametrize("name", NAMES)
def test_another_name_is_refused_over_http(call: Call, name: str) -> None:
    replies = [
        add_flow(call, "new", status=422, timezone=name),
        call("PATCH", "/flows/count", {"timezone": name}, status=422),
    ]

    for reply in replies:
        [reason] = reply.json["errors"]["timezone"]
        assert reason.startswith(f"{name!r} is not an IANA time zone")


def test_another_name_is_refused_by_the_command(command: Command) -> None:
    options = ("--handler", "good", "--cron", "0 3 * * *", "--timezone", "localtime")
    result = command("add", "x", *options)

    assert result.exit_code == 1
    assert result.output.startswith("Error: timezone: 'localtime' is not an IANA time zone")
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize("schedule", [{"every": "1h"}, {"every": None, "cron": "0 * * * *"}])
def test_a_row_with_another_name_is_disabled_and_stops_no_other_flow(
    make_app: MakeApp,
    post: Callable[..., Any],
    clock: FakeClock,
    dbsession: Session,
    schedule: dict[str, Any],
) -> None:
    def other(_run: Run) -> None:
        """Do nothing."""

    app = make_app((count, schedule), (other, {"every": "1h"}), **SECRET)
    post(app)
    broken = update(DataFlow).where(DataFlow.name == "count")
    dbsession.execute(broken.values(timezone="localtime"))
    dbsession.commit()

    clock.advance(3_600)
    reply = post(app).json

    assert reply["flows_triggered"] == reply["flows_succeeded"] == 1
    row = row_of(dbsession, "count")
    assert not row.enabled
    assert "'localtime' is not an IANA time zone" in str(row.disabled_reason)
    flow = as_operator(app)("GET", "/flows/count", status=200).json
    assert "'localtime' is not an IANA time zone" in flow["why"]


def test_why_answers_for_a_row_with_another_name(command: Command, dbsession: Session) -> None:
    command("flows")
    dbsession.execute(update(DataFlow).values(timezone="localtime"))
    dbsession.commit()

    result = command("why", "good")

    assert result.exit_code == 0, result.output
    assert "UTC" in result.output
