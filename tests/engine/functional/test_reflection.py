"""Flows that look for tables: errors that SQLAlchemy expects and handles fail no run."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    String,
    Table,
    insert,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.engine.reflection import Inspector
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    NoSuchTableError,
    ProgrammingError,
    SQLAlchemyError,
    UnreflectableTableError,
)
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run
from data_flows.heartbeat.db import Limits, make_engine
from data_flows.heartbeat.models import DataFlowRun

from ..conftest import MakeApp
from ..notes import Note

Post = Callable[..., Any]
Work = Callable[[Run], Any]
Look = Callable[[Inspector], Any]

DATABASE = make_url(os.environ.get("TEST_DATABASE_URL") or "sqlite://").get_backend_name()

pytestmark = pytest.mark.usefixtures("notes", "_no_new_tables")


@pytest.fixture
def _no_new_tables(database_url: str) -> Iterator[None]:
    """Drop what the flows here have created."""
    yield
    engine = make_engine(make_url(database_url), limits=Limits(write_lock=10))
    with engine.begin() as connection:
        connection.execute(text("DROP VIEW IF EXISTS broken_view_of_tests"))
        for name in ("frame_of_tests", "Frame_Of_Tests", "base_of_broken_view"):
            quoted = engine.dialect.identifier_preparer.quote(name)
            connection.execute(text(f"DROP TABLE IF EXISTS {quoted}"))
    engine.dispose()


@pytest.fixture
def run(make_app: MakeApp, post: Post, dbsession: Session) -> Callable[[Work], DataFlowRun]:
    """Run a flow by a beat; return the row of its run."""

    def run(work: Work) -> DataFlowRun:
        post(make_app((work, {"name": "work"})))
        return dbsession.scalars(select(DataFlowRun)).one()

    return run


def outcome(row: DataFlowRun) -> tuple[str, str | None, str | None]:
    return row.status, row.error_type, row.error_message


def frame(name: str = "frame_of_tests") -> Table:
    """Return a table as pandas describes a DataFrame that is to be stored."""
    return Table(name, MetaData(), Column("index", Integer), Column("bird", String(50)))


def missing(look: Look) -> Look:
    """Expect that the table is not found."""

    def call(inspector: Inspector) -> bool:
        try:
            look(inspector)
        except NoSuchTableError:
            return True
        return False

    return call


LOOKS: dict[str, tuple[Look, object]] = {
    "has_table": (lambda found: found.has_table("nowhere"), False),
    "has_table of a schema": (
        lambda found: found.has_table("nowhere", schema=found.default_schema_name),
        False,
    ),
    "has_index": (lambda found: found.has_index("nowhere", "nothing"), False),
    "get_columns": (missing(lambda found: found.get_columns("nowhere")), True),
    "get_pk_constraint": (missing(lambda found: found.get_pk_constraint("nowhere")), True),
    "get_foreign_keys": (missing(lambda found: found.get_foreign_keys("nowhere")), True),
    "get_indexes": (missing(lambda found: found.get_indexes("nowhere")), True),
    "get_unique_constraints": (
        missing(lambda found: found.get_unique_constraints("nowhere")),
        True,
    ),
    "get_check_constraints": (
        missing(lambda found: found.get_check_constraints("nowhere")),
        True,
    ),
    "get_view_definition": (missing(lambda found: found.get_view_definition("nowhere")), True),
    "get_view_names": (lambda found: found.get_view_names(), []),
    "get_multi_columns": (
        lambda found: [*found.get_multi_columns(filter_names=["nowhere"])],
        [],
    ),
    "reflect_table": (
        missing(lambda found: found.reflect_table(Table("nowhere", MetaData()), None)),
        True,
    ),
    "autoload_with": (
        missing(lambda found: Table("nowhere", MetaData(), autoload_with=found.bind)),
        True,
    ),
}
if DATABASE == "postgresql":
    LOOKS["has_sequence"] = (lambda found: found.has_sequence("nowhere"), False)
    LOOKS["get_sequence_names"] = (lambda found: "nowhere" in found.get_sequence_names(), False)
looks = pytest.mark.parametrize(("look", "answer"), LOOKS.values(), ids=LOOKS)


@looks
@pytest.mark.parametrize("nested", [False, True], ids=["outside", "in a savepoint"])
def test_a_flow_that_looks_for_what_is_not_there_succeeds(
    run: Callable[[Work], DataFlowRun],
    dbsession: Session,
    *,
    look: Look,
    answer: object,
    nested: bool,
) -> None:
    def work(run: Run) -> object:
        run.session.add(Note(name="before", mark="before"))
        run.session.flush()
        if nested:
            with run.session.begin_nested():
                found = look(inspect(run.session.connection()))
        else:
            found = look(inspect(run.session.connection()))
        run.session.add(Note(name="after", mark="after"))
        return found

    row = run(work)

    assert outcome(row) == ("success", None, None)
    assert row.result == answer
    assert dbsession.scalars(select(Note.name).order_by(Note.id)).all() == ["before", "after"]


@looks
def test_an_error_that_a_flow_swallows_after_it_has_looked_still_fails_the_run(
    run: Callable[[Work], DataFlowRun], dbsession: Session, look: Look, answer: object
) -> None:
    def work(run: Run) -> None:
        run.session.execute(insert(Note).values(name="first", mark="same", size=1))
        assert look(inspect(run.session.connection())) == answer
        inspect(run.session.connection()).get_columns(Note.__tablename__)
        with suppress(IntegrityError):
            run.session.execute(insert(Note).values(name="second", mark="same", size=1))

    row = run(work)

    assert (row.status, row.error_type) == ("failed", "IntegrityError")
    assert "begin_nested()" in (row.error_message or "")
    assert dbsession.scalars(select(Note.name)).all() == []


def test_a_table_that_a_statement_names_and_that_is_missing_fails_the_run(
    run: Callable[[Work], DataFlowRun],
) -> None:
    def work(run: Run) -> None:
        assert not inspect(run.session.connection()).has_table("nowhere")
        with suppress(SQLAlchemyError):
            run.session.execute(text("SELECT * FROM nowhere"))

    row = run(work)

    assert row.status == "failed"
    assert row.error_type in {"ProgrammingError", "OperationalError"}
    assert "nowhere" in (row.error_message or "")


def create_all(run: Run) -> None:
    table = frame()
    table.metadata.create_all(run.session.connection())
    table.metadata.create_all(run.session.connection())
    run.session.execute(insert(table).values(index=0, bird="owl"))


def create_checked(run: Run) -> None:
    table = frame()
    table.create(run.session.connection(), checkfirst=True)
    run.session.execute(insert(table).values(index=0, bird="owl"))


def drop_and_create(run: Run) -> None:
    table = frame()
    table.metadata.drop_all(run.session.connection())
    create_checked(run)


def to_sql(run: Run, name: str = "frame_of_tests", if_exists: str = "fail") -> None:
    """Call what `DataFrame.to_sql(name, run.session.connection(), if_exists=…)` of pandas calls."""
    connection, metadata = run.session.connection(), MetaData()
    table = frame(name)
    if inspect(connection).has_table(name, None):
        assert if_exists in {"replace", "append"}
        if if_exists == "replace":
            metadata.reflect(bind=connection, only=[name], schema=None, views=True)
            metadata.tables[name].drop(bind=connection)
            metadata.clear()
    if not inspect(connection).has_table(name, None):
        table = table.to_metadata(metadata)
        assert connection.in_transaction()
        table.create(bind=connection)
    connection.execute(table.insert(), [{"index": 0, "bird": "owl"}])
    if not name.islower():
        assert name in inspect(connection).get_table_names(schema=None)


def to_sql_twice(run: Run) -> None:
    to_sql(run)
    to_sql(run, if_exists="append")
    to_sql(run, if_exists="replace")


def to_sql_in_capitals(run: Run) -> None:
    to_sql(run, "Frame_Of_Tests")


@pytest.mark.parametrize(
    ("work", "name"),
    [
        (create_all, "frame_of_tests"),
        (create_checked, "frame_of_tests"),
        (drop_and_create, "frame_of_tests"),
        (to_sql, "frame_of_tests"),
        (to_sql_twice, "frame_of_tests"),
        (to_sql_in_capitals, "Frame_Of_Tests"),
    ],
)
def test_a_flow_that_creates_the_tables_it_misses_succeeds(
    run: Callable[[Work], DataFlowRun], dbsession: Session, work: Work, name: str
) -> None:
    row = run(work)

    assert outcome(row) == ("success", None, None)
    assert dbsession.scalars(select(frame(name).c.bird)).all() == ["owl"]


if DATABASE == "mysql":  # whose reflection alone asks by a statement that may fail

    def test_a_view_that_cannot_be_reflected_is_an_error_that_a_flow_may_handle(
        run: Callable[[Work], DataFlowRun], dbsession: Session
    ) -> None:
        for statement in (
            "CREATE TABLE base_of_broken_view (id INT)",
            "CREATE VIEW broken_view_of_tests AS SELECT id FROM base_of_broken_view",
            "DROP TABLE base_of_broken_view",
        ):
            dbsession.execute(text(statement))

        def work(run: Run) -> str:
            try:
                inspect(run.session.connection()).get_columns("broken_view_of_tests")
            except (UnreflectableTableError, ProgrammingError) as error:
                return type(error).__name__
            return "reflected"

        row = run(work)

        assert outcome(row)[:2] == ("success", None)
        assert row.result == "UnreflectableTableError"


def test_the_mark_hides_no_error_of_the_statements_after_it(
    run: Callable[[Work], DataFlowRun],
) -> None:
    def work(run: Run) -> None:
        connection = run.session.connection().execution_options(skip_user_error_events=True)
        connection.execute(text("SELECT 1"))
        with suppress(DBAPIError):
            connection.execute(text("SELECT * FROM nowhere"))

    assert run(work).status == "failed"
