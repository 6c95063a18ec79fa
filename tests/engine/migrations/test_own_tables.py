"""Your own chain: revisions that Alembic writes for your models run, and `check` compares both."""

import enum
import importlib.util
import os
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from click.testing import CliRunner, Result
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType

from data_flows.heartbeat import migrations
from data_flows.heartbeat.cli import main as heartbeat_command
from data_flows.heartbeat.db import make_engine
from data_flows.heartbeat.db.text import AnyText
from data_flows.heartbeat.db.types import Id, Json, Name, Seconds, ShortString, UTCDateTime
from data_flows.models import Base

VERSIONS = Path(migrations.__file__).parents[2] / "migrations" / "versions"
INI_FILE = Path("testing.ini").absolute()
NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
SOME_ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


class Color(enum.Enum):
    """What an Enum holds."""

    RED = "red"
    BLUE = "blue"


class Code(TypeDecorator[str]):
    """The simplest type of one's own."""

    impl = sa.String
    cache_ok = True


class Guid(TypeDecorator[uuid.UUID]):
    """A type of one's own that differs between databases, as SQLAlchemy's guide has it."""

    impl = sa.CHAR
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        """Return the type of the column."""
        own = postgresql.UUID() if dialect.name == "postgresql" else sa.CHAR(32)
        return dialect.type_descriptor(own)

    def process_bind_param(self, value: uuid.UUID | None, dialect: sa.Dialect) -> Any:
        """Store hexadecimal digits on databases without a type for them."""
        return value if value is None or dialect.name == "postgresql" else value.hex

    def process_result_value(self, value: Any, _dialect: sa.Dialect) -> uuid.UUID | None:
        """Read them."""
        return value if value is None or isinstance(value, uuid.UUID) else uuid.UUID(value)


class Document(TypeDecorator[Any]):
    """JSON, and JSONB where it is known."""

    impl = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
    cache_ok = True


class Moment(TypeDecorator[datetime]):
    """A type of one's own on top of one of the engine's."""

    impl = UTCDateTime
    cache_ok = True


class Point(UserDefinedType[str]):
    """A type that no other class stands for."""

    cache_ok = True

    def get_col_spec(self, **_options: Any) -> str:
        """Return its name in SQL."""
        return "VARCHAR(30)"


OWN: dict[str, tuple[TypeEngine[Any], Any]] = {
    "utc": (UTCDateTime(), NOON),
    "any_text": (AnyText(), "Käuzchen"),
    "any_varchar": (AnyText(50), "Käuzchen"),
    "name": (Name, "Käuzchen"),
    "word": (ShortString, "word"),
    "json": (Json(), {"a": [1, None]}),
    "seconds": (Seconds(), 0.5),
    "big_id": (Id, 2**40),
    "code": (Code(20), "x"),
    "guid": (Guid(), SOME_ID),
    "document": (Document(), {"a": 1}),
    "moment": (Moment(), NOON),
    "variant": (Code(20).with_variant(mysql.VARCHAR(20, charset="utf8mb4"), "mysql"), "x"),
}
OTHERS: dict[str, tuple[TypeEngine[Any], Any]] = {
    "flag": (sa.Boolean(), True),
    "money": (sa.Numeric(10, 2), Decimal("1.50")),
    "color": (sa.Enum(Color), Color.RED),
    "uuid": (sa.Uuid(), SOME_ID),
    "pickled": (sa.PickleType(), (1, 2)),
    "interval": (sa.Interval(), timedelta(hours=1)),
    "bytes": (sa.LargeBinary(), b"\0\xff"),
    "text": (sa.Text(), "text"),
    "day": (sa.Date(), date(2026, 3, 1)),
    "clock": (sa.Time(), time(12)),
    "small": (sa.SmallInteger(), 1),
    "ratio": (sa.Float(), 0.5),
    "double": (sa.Double(), 0.5),
    "plain_json": (sa.JSON(), [1]),
    "jsonb": (sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), [1]),
}
COLUMNS = {**OWN, **OTHERS}


@pytest.fixture
def birds() -> Iterator[sa.Table]:
    """Add a table with each of these types to your models."""
    columns = [sa.Column(name, kind) for name, (kind, _value) in COLUMNS.items()]
    key = sa.Column("id", sa.Integer(), primary_key=True)
    unique, index = sa.UniqueConstraint("code"), sa.Index(None, "utc")
    owner: sa.Column[int] = sa.Column("owner_id", sa.ForeignKey("birds.id", ondelete="CASCADE"))
    table = sa.Table("birds", Base.metadata, key, owner, *columns, unique, index)
    yield table
    Base.metadata.remove(table)


@pytest.fixture
def ini(tmp_path: Path, fresh_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write an .ini file for a fresh migrated database, whose new revisions are in a folder."""
    monkeypatch.setenv("DATABASE_URL", fresh_database_url)
    monkeypatch.setenv("HEARTBEAT_TOKEN", "a-token-for-tests-and-nothing-else")
    places = os.pathsep.join([str(VERSIONS), str(tmp_path / "versions")])
    (tmp_path / "versions").mkdir()
    ini = tmp_path / "own.ini"
    ini.write_text(
        INI_FILE.read_text().replace("[alembic]\n", f"[alembic]\nversion_locations = {places}\n")
        + "\n[server:main]\nuse = egg:waitress\nthreads = 8\n"
    )
    assert heartbeat(ini, "migrate").exit_code == 0
    return ini


def heartbeat(ini: Path, *words: str) -> Result:
    return CliRunner().invoke(heartbeat_command, [*words, "-c", str(ini)])


def differences(ini: Path) -> list[str]:
    """Return what `heartbeat check` finds wrong; its exit code must agree."""
    result = heartbeat(ini, "check")
    found = [line for line in result.output.splitlines() if line.startswith("wrong ")]
    assert result.exit_code == bool(found), result.output
    return found


def write_revision(ini: Path) -> Path:
    """Let Alembic write a revision for the difference between models and database."""
    folder = ini.parent / "versions"
    command.revision(Config(str(ini)), "birds", autogenerate=True, version_path=str(folder))
    (made,) = folder.glob("*.py")
    return made


def execute(work: Callable[[sa.Connection], None]) -> None:
    engine = make_engine(sa.make_url(os.environ["DATABASE_URL"]))
    with engine.begin() as connection:
        work(connection)
    engine.dispose()


def test_a_revision_for_any_column_type_runs_and_leaves_no_difference(
    ini: Path, birds: sa.Table
) -> None:
    (missing,) = differences(ini)
    revision = write_revision(ini)
    migrated = heartbeat(ini, "migrate")
    left = differences(ini)
    values = {name: value for name, (_kind, value) in COLUMNS.items()}

    def store(connection: sa.Connection) -> None:
        connection.execute(birds.insert().values(id=1, **values))
        row = connection.execute(sa.select(birds)).one()._asdict()
        assert {name: row[name] for name in values} == values

    execute(store)
    command.downgrade(Config(str(ini)), "-1")

    assert "(add_table birds, " in missing
    assert f"run `alembic -c {ini} revision --autogenerate`, then `heartbeat migrate`" in missing
    assert "data_flows" not in revision.read_text()
    assert "tests." not in revision.read_text()
    assert migrated.exit_code == 0, migrated.output
    assert left == []
    (missing,) = differences(ini)
    assert "not applied: run `heartbeat migrate`" in missing


@pytest.mark.usefixtures("birds")
def test_a_revision_runs_on_each_database_wherever_it_was_written(ini: Path) -> None:
    spec = importlib.util.spec_from_file_location("revision", write_revision(ini))
    assert spec is not None
    assert spec.loader is not None
    revision = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(revision)
    expected = {
        "sqlite": ["utc DATETIME", "guid CHAR(32)", "document JSON"],
        "postgresql": ["utc TIMESTAMP WITH TIME ZONE", "guid UUID", "document JSONB"],
        "mysql": ["utc DATETIME(6)", "guid CHAR(32)", "document JSON", "any_varchar VARCHAR(50)"],
    }

    for name, columns in expected.items():
        written = StringIO()
        options = {"as_sql": True, "output_buffer": written}
        context = MigrationContext.configure(dialect_name=name, opts=options)
        with Operations.context(context):
            revision.upgrade()
        assert [words for words in columns if words not in written.getvalue()] == []


@pytest.mark.usefixtures("ini")
def test_a_type_without_a_decorator_is_imported(ini: Path) -> None:
    table = sa.Table("points", Base.metadata, sa.Column("point", Point(), primary_key=True))
    try:
        revision = write_revision(ini)
        migrated = heartbeat(ini, "migrate")
    finally:
        Base.metadata.remove(table)

    assert f"\nimport {__name__}\n" in revision.read_text()
    assert migrated.exit_code == 0, migrated.output


@pytest.mark.usefixtures("birds")
def test_a_difference_is_named_with_its_table(ini: Path) -> None:
    def change(connection: sa.Connection) -> None:
        operations = Operations(MigrationContext.configure(connection))
        with operations.batch_alter_table("birds") as table:
            table.add_column(sa.Column("nest", sa.String(20)))
            table.alter_column("variant", type_=sa.String(10), existing_type=sa.String(20))
        operations.create_index("ix_of_nobody", "birds", ["small"])

    write_revision(ini)
    assert heartbeat(ini, "migrate").exit_code == 0
    execute(change)

    (found,) = differences(ini)

    for words in (
        "remove_column birds nest",
        "modify_type birds variant",
        "remove_index birds ix_of_nobody",
    ):
        assert words in found


def test_a_table_that_a_flow_has_created_is_ignored(ini: Path) -> None:
    frame = sa.Table("frame", sa.MetaData(), sa.Column("bird", sa.String(20), index=True))
    execute(frame.create)

    assert differences(ini) == []
    assert "tables without a model: frame" in heartbeat(ini, "check").output
