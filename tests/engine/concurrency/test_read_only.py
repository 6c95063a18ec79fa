"""A database that can only be read for a while: sessions of that time are not kept."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, insert, make_url
from sqlalchemy.exc import DBAPIError

from data_flows.heartbeat import Run
from data_flows.heartbeat.db import BOOKKEEPING, make_engine

from ..conftest import FakeClock, MakeApp, heartbeat_of
from ..notes import Note
from .conftest import DATABASE

Post = Callable[..., Any]
EVERY = 300
READ_ONLY = {
    "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
}[DATABASE]

pytestmark = pytest.mark.usefixtures("notes")


def test_a_session_that_can_only_read_is_replaced(database_url: str) -> None:
    engine = make_engine(make_url(database_url), limits=BOOKKEEPING)
    row = insert(Note).values(name="written", mark="written", size=1)
    with engine.begin() as connection:
        connection.exec_driver_sql(READ_ONLY)

    with pytest.raises(DBAPIError), engine.begin() as connection:
        connection.execute(row)
    with engine.begin() as connection:
        connection.execute(row)
    engine.dispose()


if DATABASE == "postgresql":  # elsewhere, the default is that of the whole server

    @pytest.fixture
    def read_only_role(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        """Make a role for the application; return what makes its new sessions read-only, or not."""
        owner = create_engine(make_url(database_url), isolation_level="AUTOCOMMIT")
        with owner.connect() as connection:
            role = f"reader_of_{make_url(database_url).database}"
            connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'secret'")

            def set_read_only(value: str) -> None:
                setting = f"default_transaction_read_only = {value}"
                connection.exec_driver_sql(f"ALTER ROLE {role} SET {setting}")

            url = make_url(database_url).set(username=role, password="secret")  # noqa: S106 - a test
            monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
            yield set_read_only
            connection.exec_driver_sql(f"DROP ROLE {role}")
        owner.dispose()

    def test_the_first_beat_after_the_database_can_be_written_works(
        make_app: MakeApp, post: Post, clock: FakeClock, read_only_role: Any
    ) -> None:
        def work(run: Run) -> None:
            run.session.execute(insert(Note).values(name="row", mark=str(run.id), size=1))

        read_only_role("off")
        app = make_app((work, {"every": EVERY}))
        assert post(app).json["flows_succeeded"] == 1
        read_only_role("on")
        # New sessions, as after a restart of the server.
        heartbeat_of(app).dispose()
        clock.advance(EVERY)

        for _ in range(3):
            detail = post(app, status=503).json["detail"]
            assert "read-only transaction" in detail
            assert "SKIP LOCKED" not in detail
        read_only_role("off")

        assert post(app).json["flows_succeeded"] == 1
