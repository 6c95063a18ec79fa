"""What the tests stand on: a migrated database of their own, and the application on it.

It is a temporary SQLite file, or, where TEST_DATABASE_URL names a server's database, a new
database beside that one, dropped at the end.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from pyramid.paster import get_appsettings
from sqlalchemy import create_engine, make_url
from sqlalchemy.orm import Session
from webtest import TestApp

from {{cookiecutter.project_slug}} import (
    main,
)
from {{cookiecutter.project_slug}}.heartbeat import (
    Heartbeat,
)
from {{cookiecutter.project_slug}}.heartbeat.cli import (
    main as heartbeat_command,
)
from {{cookiecutter.project_slug}}.heartbeat.db import (
    make_engine,
)
from {{cookiecutter.project_slug}}.heartbeat.models import (
    DataFlowRun,
    EngineBase,
)
from {{cookiecutter.project_slug}}.heartbeat.operations import (
    claim_by_hand,
)
from {{cookiecutter.project_slug}}.heartbeat.runs.execute import (
    execute,
)
from {{cookiecutter.project_slug}}.heartbeat.runs.register import (
    register,
)
from {{cookiecutter.project_slug}}.models import (
    Base,
)

TOKEN = "a-token-for-tests-and-nothing-else"  # noqa: S105 - no secret
INI_FILE = os.path.abspath("testing.ini")  # noqa: PTH100 - tests may change the folder


@pytest.fixture(scope="session")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Make and migrate the tests' database, once; return its URL."""
    server = os.environ.get("TEST_DATABASE_URL")
    url = make_url(f"sqlite:///{tmp_path_factory.mktemp('database') / 'test.sqlite'}")
    if server:
        url = make_url(server).set(database=f"heartbeat_test_{uuid.uuid4().hex[:8]}")
    text = url.render_as_string(hide_password=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", text)
        result = CliRunner().invoke(heartbeat_command, ["migrate", "-c", INI_FILE])
        assert result.exit_code == 0, result.output
        yield text
    if server:
        owner = create_engine(server, isolation_level="AUTOCOMMIT")
        with owner.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {url.database}")
        owner.dispose()


@pytest.fixture
def dbsession(database_url: str) -> Iterator[Session]:
    """Open a session on the tests' database, to arrange and to look; commit() is yours."""
    engine = make_engine(make_url(database_url))
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.fixture(autouse=True)
def _empty_tables(database_url: str) -> Iterator[None]:
    """Leave no row behind: each test starts with empty tables."""
    yield
    engine = make_engine(make_url(database_url), lock_seconds=10)
    with engine.begin() as connection:
        for metadata in (EngineBase.metadata, Base.metadata):
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
    engine.dispose()


@pytest.fixture
def app(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestApp]:
    """Make the whole application, as `pserve` would serve it."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("HEARTBEAT_TOKEN", TOKEN)
    wsgi_app = main({}, **get_appsettings(INI_FILE))
    yield TestApp(wsgi_app)
    wsgi_app.registry["heartbeat"].engine.dispose()
    wsgi_app.registry["dbsession_factory"].kw["bind"].dispose()


@pytest.fixture
def beat(app: TestApp) -> Callable[[], dict[str, Any]]:
    """Call the heartbeat as a scheduler does; return the reply's JSON."""

    def post() -> dict[str, Any]:
        reply: dict[str, Any] = app.post(
            "/heartbeat", headers={"Authorization": f"Bearer {TOKEN}"}
        ).json
        return reply

    return post


@pytest.fixture
def run_flow(app: TestApp) -> Callable[[str], DataFlowRun]:
    """Run one flow now, as `heartbeat run NAME` does; return the row of its run."""

    def run(name: str) -> DataFlowRun:
        wsgi_app: Any = app.app
        heartbeat: Heartbeat = wsgi_app.registry["heartbeat"]
        register(heartbeat)
        with heartbeat.session() as session:
            claimed = claim_by_hand(session, heartbeat, name)
        execute(heartbeat, claimed)
        with heartbeat.session() as session:
            row = session.get_one(DataFlowRun, claimed.id)
            session.expunge(row)
        return row

    return run
