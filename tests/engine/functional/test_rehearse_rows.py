"""The rows that a rehearsal counts: each kind of statement, with what the database did."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import bindparam, delete, insert, select, text, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run
from data_flows.heartbeat.optional.rehearse.prepare import prepare
from data_flows.heartbeat.optional.rehearse.rehearsal import rehearse

from ..conftest import DATABASE, MakeApp, heartbeat_of
from ..notes import Note
from .rehearsed import row

pytestmark = pytest.mark.usefixtures("notes")
TABLE = Note.__tablename__
NOTES: Any = Note.__table__
VALUES = "INTO notes_of_tests (name, mark, size) VALUES"
Work = Callable[[Session], object]
Kinds = dict[str, int]


@pytest.fixture
def written(make_app: MakeApp) -> Callable[[Work], tuple[Kinds, Kinds]]:
    """Rehearse what a function does with three rows of its own; return what it has written."""

    def call(work: Work) -> tuple[Kinds, Kinds]:
        def flow(run: Run) -> None:
            run.session.execute(insert(NOTES), [row(f"own {number}") for number in range(3)])
            work(run.session)

        heartbeat = heartbeat_of(make_app(flow))
        ended = rehearse(heartbeat, prepare(heartbeat, "flow"))
        assert ended.error is None
        assert ended.tables is not None
        kinds = ended.tables[TABLE]
        kinds["inserted"] -= 3
        return {kind: rows for kind, rows in kinds.items() if rows}, ended.other_statements or {}

    return call


def upsert(session: Session) -> None:
    """Insert a row, and update one that exists."""
    rows = [row("own 1", 7), row("new")]
    if DATABASE == "mysql":
        statement: Any = mysql.insert(NOTES).values(rows)
        statement = statement.on_duplicate_key_update(size=statement.inserted.size)
    else:
        dialect: Any = {"sqlite": sqlite, "postgresql": postgresql}[DATABASE]
        statement = dialect.insert(NOTES).values(rows)
        excluded = statement.excluded.size
        statement = statement.on_conflict_do_update(
            index_elements=["mark"], set_={"size": excluded}
        )
    session.execute(statement)


def savepoint_of_text(session: Session) -> None:
    for statement in (
        *("SAVEPOINT a", f"INSERT {VALUES} ('x', 'x', 1)", "SAVEPOINT b"),
        *(
            "DELETE FROM notes_of_tests",
            "ROLLBACK TO SAVEPOINT b",
            f"INSERT {VALUES} ('y', 'y', 1)",
        ),
        "RELEASE SAVEPOINT a",
    ):
        session.execute(text(statement))


def by_objects(session: Session) -> None:
    """Insert two objects, change one, delete one."""
    first, second = Note(**row("first")), Note(**row("second"))
    session.add_all([first, second])
    session.flush()
    first.size = 9
    session.delete(second)


def error_in_savepoint(session: Session) -> None:
    with suppress(Exception), session.begin_nested():
        session.execute(insert(NOTES), [row("new"), row("own 1")])


def twice_in_batches(session: Session) -> None:
    session.execute(insert(Note).returning(Note.id), [row(f"row {n}") for n in range(2_500)])


BY_ID = update(NOTES).where(NOTES.c.mark == bindparam("of")).values(size=bindparam("new"))


@pytest.mark.parametrize(
    ("work", "kinds"),
    [
        pytest.param(by_objects, {"inserted": 2, "updated": 1, "deleted": 1}, id="objects"),
        pytest.param(
            lambda session: session.execute(insert(NOTES).values([row("a"), row("b")])),
            {"inserted": 2},
            id="several values",
        ),
        pytest.param(twice_in_batches, {"inserted": 2_500}, id="batches that return"),
        pytest.param(
            lambda session: session.execute(delete(Note)),
            {"deleted": 3},
            id="delete without a where",
        ),
        pytest.param(
            lambda session: session.connection().execute(
                BY_ID, [{"of": "own 0", "new": 2}, {"of": "own 1", "new": 3}, {"of": "-", "new": 4}]
            ),
            {"updated": 2},
            id="executemany",
        ),
        pytest.param(
            lambda session: session.execute(update(Note).values(size=Note.size)),
            {"updated": 3},
            id="an update without a change",
        ),
        pytest.param(
            lambda session: session.execute(text(f"insert {VALUES} ('SET', 'ON CONFLICT', 1)")),
            {"inserted": 1},
            id="a text with words in strings",
        ),
        pytest.param(upsert, {"upserted": 3 if DATABASE == "mysql" else 2}, id="upsert"),
        pytest.param(savepoint_of_text, {"inserted": 2}, id="savepoints of text"),
        pytest.param(error_in_savepoint, {}, id="an error in a savepoint"),
        pytest.param(
            lambda session: session.execute(select(Note).with_for_update()).all(), {}, id="a lock"
        ),
        pytest.param(
            lambda session: session.execute(
                text("SELECT 'INSERT INTO x' FROM notes_of_tests")
            ).all(),
            {},
            id="a read",
        ),
    ],
)
def test_each_statement_counts_by_what_it_did(
    written: Callable[[Work], tuple[Kinds, Kinds]], work: Work, kinds: Kinds
) -> None:
    assert written(work) == (kinds, {})


if DATABASE != "mysql":

    @pytest.mark.parametrize(
        "statement",
        [
            insert(Note).values(**row("new")).returning(Note.id),
            insert(NOTES)
            .from_select(["name", "mark", "size"], select(NOTES.c.name, NOTES.c.mark + "x", 1))
            .returning(NOTES.c.id),
        ],
        ids=["values", "select"],
    )
    @pytest.mark.parametrize("fetch", [False, True])
    def test_rows_that_are_returned_count_whether_they_are_fetched_or_not(
        written: Callable[[Work], tuple[Kinds, Kinds]], statement: Any, *, fetch: bool
    ) -> None:
        def work(session: Session) -> None:
            result = session.execute(statement)
            if fetch:
                result.all()

        [count] = written(work)[0].values()
        assert count in {1, 3}

    def test_a_statement_in_a_with_is_listed(
        written: Callable[[Work], tuple[Kinds, Kinds]],
    ) -> None:
        statement = (
            "WITH x AS (SELECT 1 AS n) DELETE FROM notes_of_tests WHERE size IN (SELECT n FROM x)"
        )

        assert written(lambda session: session.execute(text(statement))) == ({}, {"WITH X": 1})


def test_a_statement_whose_table_is_not_certain_is_listed(
    written: Callable[[Work], tuple[Kinds, Kinds]],
) -> None:
    def work(session: Session) -> None:
        session.execute(text("/* x */ UPDATE notes_of_tests SET size = 2"))

    assert written(work) == ({}, {"UPDATE NOTES_OF_TESTS": 1})


if DATABASE == "mysql":

    @pytest.mark.parametrize(
        ("statement", "words"),
        [
            ("CREATE TABLE made_by_a_flow (id INTEGER)", "CREATE TABLE"),
            ("/* x */ truncate notes_of_tests", "TRUNCATE NOTES_OF_TESTS"),
            ("/*!40000 ALTER TABLE notes_of_tests ENGINE = InnoDB */", "ALTER TABLE"),
            ("SET STATEMENT max_statement_time = 9 FOR DROP TABLE nowhere", "DROP TABLE"),
            ("EXECUTE IMMEDIATE 'COMMIT'", "EXECUTE IMMEDIATE"),
            ("BEGIN NOT ATOMIC COMMIT; END", "BEGIN NOT ATOMIC"),
            ("CALL nothing()", "CALL NOTHING"),
            ("CREATE TEMPORARY TABLE temporary_of_a_flow (id INTEGER)", ""),
            ("INSERT INTO notes_of_tests (name, mark, size) VALUES ('DROP TABLE x', 'x', 1)", ""),
            ("SELECT IF(1, 2, 3)", ""),
        ],
    )
    def test_a_statement_that_may_commit_is_not_executed(
        make_app: MakeApp, dbsession: Session, statement: str, words: str
    ) -> None:
        def flow(run: Run) -> None:
            run.session.execute(insert(NOTES), [row("before")])
            run.session.execute(text(statement))

        heartbeat = heartbeat_of(make_app(flow))

        for _ in range(2):  # what outlasts a transaction ends with the rehearsal
            error = rehearse(heartbeat, prepare(heartbeat, "flow")).error or ""

            assert (f"the flow sent {words}, which" in error) == bool(words), error
            assert bool(error) == bool(words), error
        assert dbsession.scalars(select(Note.name)).all() == []


if DATABASE == "postgresql":

    def test_deferred_constraints_are_checked_at_the_end(make_app: MakeApp) -> None:
        def flow(run: Run) -> None:
            reference = "INTEGER REFERENCES notes_of_tests DEFERRABLE INITIALLY DEFERRED"
            run.session.execute(text(f"CREATE TABLE made_by_a_flow (note {reference})"))
            run.session.execute(text("INSERT INTO made_by_a_flow VALUES (-1)"))

        heartbeat = heartbeat_of(make_app(flow))

        ended = rehearse(heartbeat, prepare(heartbeat, "flow"))

        assert (ended.status, ended.error_type) == ("failed", "IntegrityError")
        assert ended.other_statements == {"CREATE TABLE": 1}
