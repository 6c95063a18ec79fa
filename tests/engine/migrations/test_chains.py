"""The two chains of migrations: the engine's, with its own version table, and yours."""

import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from click.testing import CliRunner, Result
from sqlalchemy import Engine, MetaData, Table, inspect, make_url, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from data_flows.heartbeat import migrations
from data_flows.heartbeat.cli import main as heartbeat_command
from data_flows.heartbeat.db import Limits, create_database, make_engine
from data_flows.heartbeat.errors import DatabaseNotReadyError
from data_flows.heartbeat.models import DataFlow, DataFlowRun
from data_flows.models import Base

INI_FILE = os.path.abspath("testing.ini")  # noqa: PTH100 - tests may change the folder
RUNS = "data_flow_runs"
OURS = {"data_flows", RUNS, "data_flow_beats"}
OLD = datetime(2026, 11, 24, 3, 0, 0, 123456)  # noqa: DTZ001 - as the driver of SQLite takes it


@pytest.fixture
def engine(fresh_database_url: str) -> Iterator[Engine]:
    """Create an empty database and connect to it."""
    engine = make_engine(make_url(fresh_database_url), limits=Limits(write_lock=10))
    create_database(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def migrate(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Result]:
    """Call `heartbeat migrate` for the fresh database."""
    url = engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", url)
    return lambda: CliRunner().invoke(heartbeat_command, ["migrate", "-c", INI_FILE])


def go_down(engine: Engine) -> None:
    """Take the engine's tables away, with all their rows."""
    with engine.begin() as connection:
        command.downgrade(migrations.config_for(connection), "base")


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def shape(engine: Engine) -> dict[str, object]:
    """Describe the engine's tables as the database has them."""
    found = inspect(engine)
    return {
        table: [
            [(str(column["name"]), str(column["type"])) for column in found.get_columns(table)],
            sorted(str(index["name"]) for index in found.get_indexes(table)),
            sorted(str(unique["name"]) for unique in found.get_unique_constraints(table)),
            sorted(str(check["name"]) for check in found.get_check_constraints(table)),
        ]
        for table in sorted(OURS)
    }


def set_revision(engine: Engine, revision: str) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE data_flow_version SET version_num = :revision"), {"revision": revision}
        )


# ---------------------------------------------------------------------------------------------
# The engine's chain


def test_the_chain_goes_up_down_and_up_again(engine: Engine) -> None:
    migrations.upgrade(engine)
    first = shape(engine)
    go_down(engine)
    between = tables(engine)
    migrations.upgrade(engine)

    assert between & OURS == set()
    assert shape(engine) == first


def test_going_up_twice_changes_nothing(engine: Engine) -> None:
    migrations.upgrade(engine)
    first = shape(engine)

    migrations.upgrade(engine)

    assert shape(engine) == first
    migrations.require_current(engine)


def test_the_models_are_what_the_migrations_make(engine: Engine) -> None:
    migrations.upgrade(engine)

    with engine.connect() as connection:
        command.check(migrations.config_for(connection))


# What every database of the first release stores as a name.
NAMES = (
    *("plain", "Käuzchen", "\N{OWL}\N{ZERO WIDTH JOINER}", "e\N{COMBINING ACUTE ACCENT}"),
    "\\x41 %",
)
FIRST_RELEASE = "0001"


def test_the_rows_of_the_first_release_survive(engine: Engine) -> None:
    with engine.begin() as connection:
        command.upgrade(migrations.config_for(connection), FIRST_RELEASE)
    flows, runs = (Table(name, MetaData(), autoload_with=engine) for name in ("data_flows", RUNS))
    started = {"created_at": OLD, "updated_at": OLD, "started_at": OLD, "lease_expires_at": OLD}
    with engine.begin() as connection:
        for number, name in enumerate(NAMES, 1):
            flow = {"name": name, "handler": name, "run_interval": 300}
            flow |= {"created_at": OLD, "updated_at": OLD, "last_slot_at": OLD, "next_run_at": OLD}
            connection.execute(flows.insert(), flow)
            run = {"data_flow_id": number, "status": "in_progress", **started}
            connection.execute(runs.insert(), {**run, "trigger": "schedule", "scheduled_for": OLD})
        before = connection.execute(select(runs).order_by(runs.c.id)).all()

    migrations.upgrade(engine)

    with Session(engine) as session:
        found = session.scalars(select(DataFlow).order_by(DataFlow.id)).all()
        assert [flow.name for flow in found] == [*NAMES]
        options = ("on_lost", "retries", "retry_delay", "pause_after")
        assert {getattr(flow, option) for flow in found for option in options} == {None}
        assert {(flow.failures_in_a_row, flow.skipped_slots) for flow in found} == {(0, 0)}
        assert session.execute(select(runs).order_by(runs.c.id)).all() == before
        session.delete(session.get(DataFlowRun, len(NAMES)))
        session.commit()
        newest = DataFlowRun(data_flow_id=len(NAMES))
        session.add(newest)
        session.commit()
        assert newest.id > len(NAMES)  # the id of a run that was deleted is not used again
        session.add(DataFlowRun(data_flow_id=1))
        with pytest.raises(IntegrityError):  # its run is still in progress
            session.commit()


def test_the_history_before_the_counts_is_counted(engine: Engine) -> None:
    with engine.begin() as connection:
        command.upgrade(migrations.config_for(connection), "0003")
    flows, runs = (Table(name, MetaData(), autoload_with=engine) for name in ("data_flows", RUNS))
    times = {"created_at": OLD, "updated_at": OLD}
    ended = [
        *(("success", 1.5, None), ("success", 0.25, None), ("success", None, None)),
        *(("failed", 2.0, "LookupError"), ("failed", 10.0, "LeaseExpired")),
        *(("failed", None, "Cancelled"), ("pending", None, None)),
    ]
    with engine.begin() as connection:
        for name in ("a", "b", "never ran"):
            flow = {"name": name, "handler": name, "run_interval": 300, "next_run_at": OLD}
            connection.execute(flows.insert(), {**flow, **times})
        for number, (status, duration, error_type) in enumerate(ended):
            run = {"data_flow_id": 1, "status": status, "trigger": "schedule", "attempt": number}
            run |= {"duration": duration, "error_type": error_type, "scheduled_for": OLD}
            connection.execute(runs.insert(), {**run, **times})
        run = {"data_flow_id": 2, "status": "failed", "trigger": "manual", "duration": 4.0}
        connection.execute(runs.insert(), {**run, **times})

    migrations.upgrade(engine)

    with Session(engine) as session:
        found = [
            (flow.success_count, flow.success_seconds, flow.failure_count, flow.failure_seconds)
            for flow in session.scalars(select(DataFlow).order_by(DataFlow.id))
        ]
        assert found == [(3, 1.75, 3, 12.0), (0, 0, 1, 4.0), (0, 0, 0, 0)]
        reaped = session.scalars(select(DataFlow.reaped_count).order_by(DataFlow.id)).all()
        assert reaped == [1, 0, 0]


def test_going_down_leaves_the_tables_that_are_yours(
    engine: Engine, migrate: Callable[[], Result]
) -> None:
    assert migrate().exit_code == 0

    go_down(engine)

    assert tables(engine) & OURS == set()
    assert tables(engine) >= {*Base.metadata.tables, "alembic_version"}


# ---------------------------------------------------------------------------------------------
# What revision is enough


def test_an_empty_database_is_not_ready_and_the_error_names_the_solution(engine: Engine) -> None:
    with pytest.raises(
        DatabaseNotReadyError, match=r"(no such file|no heartbeat tables yet).*heartbeat migrate"
    ):
        migrations.require_current(engine)


def test_a_database_after_going_down_is_not_ready(engine: Engine) -> None:
    migrations.upgrade(engine)
    go_down(engine)

    with pytest.raises(DatabaseNotReadyError, match="heartbeat migrate"):
        migrations.require_current(engine)


def test_the_head_is_ready(engine: Engine) -> None:
    migrations.upgrade(engine)

    migrations.require_current(engine)


def test_a_newer_engines_revision_is_ready_too(engine: Engine) -> None:
    migrations.upgrade(engine)
    set_revision(engine, "9999")

    assert migrations.require_current(engine) == "9999"


def test_a_newer_engines_revision_is_left_alone_by_migrate(
    engine: Engine, migrate: Callable[[], Result]
) -> None:
    assert migrate().exit_code == 0
    set_revision(engine, "9999")

    result = migrate()

    assert (result.exit_code, result.exception) == (0, None)
    with engine.connect() as connection:
        revision = connection.scalar(text("SELECT version_num FROM data_flow_version"))
    assert revision == "9999"


# ---------------------------------------------------------------------------------------------
# Both chains


def test_migrate_twice_reports_twice_that_all_is_up_to_date(
    engine: Engine, migrate: Callable[[], Result]
) -> None:
    first, second = migrate(), migrate()

    for result in (first, second):
        assert result.exit_code == 0, result.output
        assert "the heartbeat's tables are up to date" in result.output
        assert "your tables are up to date" in result.output
    assert tables(engine) == {
        *OURS,
        *Base.metadata.tables,
        "data_flow_version",
        "alembic_version",
    }


def test_each_chain_has_a_version_table_of_its_own(
    engine: Engine, migrate: Callable[[], Result]
) -> None:
    assert migrate().exit_code == 0

    with engine.connect() as connection:
        ours = connection.scalars(text("SELECT version_num FROM data_flow_version")).all()
        yours = connection.scalars(text("SELECT version_num FROM alembic_version")).all()
    assert len(ours) == 1
    assert yours == ScriptDirectory.from_config(Config(INI_FILE)).get_heads()


@pytest.mark.usefixtures("engine")
def test_your_chain_finds_no_difference(migrate: Callable[[], Result]) -> None:
    assert migrate().exit_code == 0

    command.check(Config(INI_FILE))


@pytest.mark.usefixtures("engine")
def test_a_revision_made_from_your_models_has_nothing_of_the_engine(
    migrate: Callable[[], Result], tmp_path: Path
) -> None:
    assert migrate().exit_code == 0
    config = Config(INI_FILE)
    own = Path(str(config.get_main_option("script_location")).partition(":")[2])
    assert own.name == "migrations"
    versions = Path(migrations.__file__).parents[2] / "migrations" / "versions"
    config.set_main_option("version_locations", os.pathsep.join([str(versions), str(tmp_path)]))

    command.revision(config, "nothing", autogenerate=True, version_path=str(tmp_path))

    (made,) = tmp_path.glob("*nothing.py")
    source = made.read_text()
    assert "op." not in source
    assert "data_flow" not in source
