"""Any Unicode, in a database of any default character set: kept, or kept as an escape."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command as alembic_command
from sqlalchemy import Engine, make_url, select, text
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run, migrations
from data_flows.heartbeat.db import Limits, make_engine
from data_flows.heartbeat.models import DataFlow, DataFlowBeat, DataFlowRun

from ..conftest import DATABASE, FakeClock, MakeApp
from ..factories import data_flow, data_flow_run
from ..notes import Note

Post = Callable[..., Any]

OWL = "Käuzchen 🦉 \0"
# What a database stores of it: none takes the last character.
KEPT = "Käuzchen 🦉 \N{REPLACEMENT CHARACTER}"
ESCAPED = {
    "LATIN1": r"Käuzchen \U0001f989 \ufffd",
    "SQL_ASCII": r"K\xe4uzchen \U0001f989 \ufffd",
}


@pytest.fixture
def stored(character_set: str) -> str:
    """Return OWL as a database of this character set stores it in an error or a log."""
    return ESCAPED.get(character_set, KEPT)


@pytest.fixture
def make_app(narrow_url: str, make_app: MakeApp) -> MakeApp:
    """Make applications on this database; their connections are closed before it is dropped."""
    del narrow_url  # which DATABASE_URL names
    return make_app


@pytest.fixture
def session(narrow_url: str) -> Iterator[Session]:
    """Open a session on the database, to arrange and to look."""
    engine = make_engine(make_url(narrow_url), limits=Limits(write_lock=10))
    Note.metadata.create_all(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


def run_of(session: Session, name: str) -> DataFlowRun:
    session.rollback()
    runs = select(DataFlowRun).join(DataFlowRun.data_flow).where(DataFlow.name == name)
    return session.scalars(runs).one()


class OwlError(Exception):
    """An error with a name that can be changed."""


def fail(run: Run) -> None:
    """Fail with what not every database stores."""
    run.log.info("seen: %s", OWL)
    error = type("KäuzchenError🦉", (OwlError,), {})
    raise error(OWL)


def test_the_true_error_is_in_the_history(
    make_app: MakeApp, post: Post, session: Session, stored: str
) -> None:
    reply = post(make_app(fail)).json

    assert reply["flows_failed"] == 1
    row = run_of(session, "fail")
    assert row.error_message == stored
    assert stored in (row.error_backtrace or "")
    assert (row.log or "").endswith(f"INFO seen: {stored}")
    assert row.error_type == "{}Error{}".format(*stored.split()[:2])


def test_a_healthy_run_keeps_its_writes_whatever_it_logs(
    make_app: MakeApp, post: Post, session: Session, stored: str
) -> None:
    def work(run: Run) -> dict[str, str]:
        run.session.add(Note(name="written", mark="written", size=1))
        run.log.info(OWL)
        return {"🦉": "Käuzchen 🦉"}

    assert post(make_app(work)).json["flows_succeeded"] == 1

    row = run_of(session, "work")
    assert (row.log or "").endswith(f"INFO {stored}")
    assert row.result == {"🦉": "Käuzchen 🦉"}
    assert session.scalars(select(Note.name)).all() == ["written"]


def test_a_healthy_run_that_writes_nothing_is_kept_whatever_it_logs(
    make_app: MakeApp, post: Post, session: Session, stored: str
) -> None:
    assert post(make_app((lambda run: run.log.info(OWL), {"name": "work"}))).json

    row = run_of(session, "work")
    assert (row.status, (row.log or "").endswith(stored)) == ("success", True)


def test_a_description_and_a_configuration_are_kept(
    make_app: MakeApp, post: Post, session: Session, stored: str
) -> None:
    def work(run: Run) -> Any:
        return run.configuration

    configuration = {"🦉": "Käuzchen 🦉"}
    described = KEPT
    post(make_app((work, {"description": described, "configuration": configuration})))

    row = session.scalars(select(DataFlow)).one()
    assert row.description == stored
    assert row.configuration == configuration
    assert run_of(session, "work").result == configuration


def test_the_source_of_a_beat_is_kept(
    make_app: MakeApp, session: Session, tmp_path: Path, character_set: str
) -> None:
    secret = "a-secret-of-the-owl-alone"  # noqa: S105 - an example
    (tmp_path / "tokens").write_text(f"{secret} {'🦉' * 190}\n")
    app = make_app(**{"heartbeat.token_file": str(tmp_path / "tokens")})

    app.post("/heartbeat", headers={"Authorization": f"Bearer {secret}"}, status=200)

    source = session.scalars(select(DataFlowBeat.source)).one()
    assert (r"\U0001f989" if character_set in ESCAPED else "🦉") in source
    assert len(source) <= 200


NAMES = ["Käuzchen 🦉", "käuzchen 🦉", r"Käuzchen \U0001f989", "\\"]


def test_a_flow_may_have_any_name(
    make_app: MakeApp, post: Post, session: Session, clock: FakeClock
) -> None:
    def work(run: Run) -> str:
        return run.flow_name

    app = make_app(*((work, {"name": name}) for name in NAMES))

    for _ in range(2):
        assert post(app).json["flows_succeeded"] == len(NAMES)
        clock.advance(300)

    for name in NAMES:
        results = select(DataFlowRun.result).join(DataFlowRun.data_flow)
        found = session.scalars(results.where(DataFlow.name == name)).all()
        assert list(found) == [name, name]
    assert sorted(session.scalars(select(DataFlow.name))) == sorted(NAMES)


def test_a_name_that_cannot_be_stored_whole_stops_no_other_flow(
    make_app: MakeApp, post: Post, session: Session, character_set: str
) -> None:
    long, free = (lambda _run: None, {"name": "🦉" * 200}), (lambda _run: None, {"name": "free"})
    app = make_app(long, free)

    reply = post(app).json

    succeeded = 1 if character_set in ESCAPED else 2
    assert (reply["flows_succeeded"], reply["flows_failed"]) == (succeeded, 0)
    assert run_of(session, "free").status == "success"


if DATABASE == "postgresql":

    @pytest.fixture
    def _latin1(narrow_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", f"{narrow_url}?client_encoding=latin1")

    @pytest.mark.usefixtures("_latin1")
    def test_an_encoding_in_the_url_escapes_what_it_lacks(
        make_app: MakeApp, post: Post, session: Session
    ) -> None:
        assert post(make_app(fail)).json["flows_failed"] == 1

        assert r"zchen \U0001f989 \ufffd" in (run_of(session, "fail").error_message or "")


if DATABASE == "mysql":

    @pytest.fixture(params=["utf8", "utf8mb3", "latin1"])
    def charset(
        request: pytest.FixtureRequest, narrow_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> str:
        """Name a character set of connections in the URL."""
        monkeypatch.setenv("DATABASE_URL", f"{narrow_url}?charset={request.param}")
        return str(request.param)

    def test_a_character_set_in_the_url_escapes_what_it_lacks(
        make_app: MakeApp, post: Post, session: Session, charset: str
    ) -> None:
        def work(run: Run) -> None:
            run.session.add(Note(name="written", mark="written", size=1))
            run.log.info(OWL)

        assert post(make_app(fail, work)).json["flows_succeeded"] == 1

        stored = ESCAPED["LATIN1"] if charset == "latin1" else KEPT
        assert run_of(session, "fail").error_message == stored
        assert (run_of(session, "work").log or "").endswith(stored)

    TEXTS = ("error_type", "error_message", "error_backtrace", "log")

    def narrow(session: Session, *columns: str) -> None:
        """Take the character set of columns back, as no migration of ours does."""
        for column in columns:
            kind = "VARCHAR(200)" if column == "error_type" else "TEXT"
            change = f"ALTER TABLE data_flow_runs MODIFY {column} {kind} CHARACTER SET latin1"
            session.execute(text(change))

    def test_what_the_database_refuses_all_the_same_is_recorded_in_ascii(
        make_app: MakeApp, post: Post, session: Session, caplog: pytest.LogCaptureFixture
    ) -> None:
        narrow(session, *TEXTS)

        assert post(make_app(fail)).json["flows_failed"] == 1

        row = run_of(session, "fail")
        assert row.error_type == r"K\xe4uzchenError\U0001f989"
        assert row.error_message == r"K\xe4uzchen \U0001f989 \ufffd"
        assert (row.log or "").endswith(r"K\xe4uzchen \U0001f989 \ufffd")
        assert "a record is stored in ASCII" in caplog.text

    def test_a_lost_run_is_recorded_in_ascii_where_the_database_refuses_its_text(
        make_app: MakeApp, post: Post, session: Session, clock: FakeClock
    ) -> None:
        narrow(session, *TEXTS)
        flow = data_flow(enabled=False)
        lost = data_flow_run(status="in_progress", lease_expires_at=clock.now(), worker="🦉")
        lost.data_flow = flow
        session.add(lost)
        session.commit()
        clock.advance(1)

        assert post(make_app()).json["runs_reaped"] == 1

        row = run_of(session, flow.name)
        assert row.error_type == "LeaseExpired"
        assert (row.error_message or "").startswith(r"\U0001f989 gave no sign of life")


# ---------------------------------------------------------------------------------------------
# Databases that were made before


@pytest.fixture
def old_engine(narrow_database_url: str) -> Iterator[Engine]:
    """Make the tables of the version before, and connect to them."""
    engine = make_engine(make_url(narrow_database_url), limits=Limits(write_lock=10))
    with engine.connect() as connection:
        alembic_command.upgrade(migrations.config_for(connection), "0001")
        connection.commit()
    yield engine
    engine.dispose()


def test_rows_keep_their_texts_when_the_tables_change(old_engine: Engine) -> None:
    flows = "INSERT INTO data_flows (name, handler, description, run_interval, timezone,"
    flows += " disabled_reason, created_at, updated_at)"
    values = "'name', 'handler', :text, 60, 'Europe/Berlin', :text, :at, :at"
    at = "2026-03-01 12:00:00"
    with old_engine.begin() as connection:
        for number in range(3):
            renamed = values.replace("'name'", f"'name {number}'")
            connection.execute(text(f"{flows} VALUES ({renamed})"), {"text": "Wärme", "at": at})

    migrations.upgrade(old_engine)

    with Session(old_engine) as session:
        rows = session.scalars(select(DataFlow).order_by(DataFlow.name)).all()
        assert [(row.description, row.disabled_reason) for row in rows] == [("Wärme", "Wärme")] * 3
        assert {(row.timezone, row.on_lost, row.retries) for row in rows} == {
            ("Europe/Berlin", None, None)
        }
        rows[0].description = "plain"
        session.add(data_flow(name="new"))
        session.commit()
        assert session.scalars(select(DataFlow.timezone).filter_by(name="new")).one() == "UTC"


if DATABASE == "mysql":

    def test_all_text_of_the_tables_has_the_same_character_set(old_engine: Engine) -> None:
        migrations.upgrade(old_engine)

        columns = "SELECT table_name, column_name, character_set_name, collation_name, column_type"
        found = f"{columns} FROM information_schema.columns WHERE table_schema = DATABASE()"
        tables = "SELECT table_collation FROM information_schema.tables"
        tables = f"{tables} WHERE table_schema = DATABASE()"
        of_text = "table_name LIKE 'data_flow_%s' OR table_name = 'data_flows'"
        with old_engine.connect() as connection:
            rows = connection.execute(
                text(f"{found} AND ({of_text}) AND character_set_name IS NOT NULL")
            ).all()
            defaults = connection.scalars(text(f"{tables} AND ({of_text})")).all()
        assert len(rows) > 20
        assert {(row[2], row[3]) for row in rows} == {("utf8mb4", "utf8mb4_bin")}
        assert set(defaults) == {"utf8mb4_bin"}
        assert ("data_flow_runs", "log", "text") in {(row[0], row[1], row[4]) for row in rows}
