"""Shared by all tests: a migrated database for each of them, the application, and its commands."""

import json
import os
{%- if cookiecutter.database == "sqlite" %}
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
{%- else %}
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
{%- endif %}
from typing import Any

import pytest
from click.testing import CliRunner
from pyramid.paster import get_appsettings
{%- if cookiecutter.database != "sqlite" %}
from sqlalchemy import MetaData, create_engine, make_url
from sqlalchemy.exc import OperationalError
{%- endif %}
from sqlalchemy.orm import Session
from webtest import TestApp

from {{cookiecutter.project_slug}} import (
    main,
)
from {{cookiecutter.project_slug}}.heartbeat.cli import (
    main as heartbeat,
)
from {{cookiecutter.project_slug}}.models import (
    get_engine,
)

Command = Callable[..., Any]

TOKEN = "a-token-for-tests-and-nothing-else"  # noqa: S105 - not a secret
INI_FILE = os.path.abspath("testing.ini")  # noqa: PTH100 - tests may change the folder

# What the shell has exported for the application must not change the tests.
for name in [name for name in os.environ if name.startswith(("HEARTBEAT_", "DATABASE_URL"))]:
    del os.environ[name]


def migrate(url: str) -> None:
    """Create the database, with all tables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        migrated = CliRunner().invoke(heartbeat, ["migrate", "-c", INI_FILE])
    assert migrated.exit_code == 0, migrated.output
{%- if cookiecutter.database == "sqlite" %}


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrate an SQLite file, once."""
    file = tmp_path_factory.mktemp("database") / "migrated.sqlite"
    migrate(f"sqlite:///{file}")
    return file


@pytest.fixture
def database_url(migrated_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Copy the database for this test. The application and its commands use the copy."""
    url = f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'test.sqlite')}"
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("HEARTBEAT_TOKEN", TOKEN)
    return url
{%- else %}


@pytest.fixture(scope="session")
def migrated_url() -> Iterator[str]:
    """Create and migrate a database on the server of development.ini, and drop it at the end.

    TEST_DATABASE_URL names a database on another server.
    """
    development = get_appsettings("development.ini")["sqlalchemy.url"]
    server = make_url(os.environ.get("TEST_DATABASE_URL") or development)
    owner = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        owner.connect().close()
    except OperationalError as error:
        pytest.skip(f"the database server does not answer: {error.orig}")
    name = f"heartbeat_test_{uuid.uuid4().hex[:8]}"
    url = server.set(database=name).render_as_string(hide_password=False)
    migrate(url)
    yield url
    with owner.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name}")
    owner.dispose()


@pytest.fixture
def database_url(migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name the database to the application and its commands. Delete all rows after the test."""
    monkeypatch.setenv("DATABASE_URL", migrated_url)
    monkeypatch.setenv("HEARTBEAT_TOKEN", TOKEN)
    yield migrated_url
    engine, tables = get_engine({}), MetaData()
    tables.reflect(engine)
    with engine.begin() as connection:
        for table in reversed(tables.sorted_tables):
            if not table.name.endswith("version"):  # Alembic's
                connection.execute(table.delete())
    engine.dispose()
{%- endif %}


@pytest.fixture
def dbsession(database_url: str) -> Iterator[Session]:
    """Open a session on the test's database, to store rows and to look at them."""
    engine = get_engine({"sqlalchemy.url": database_url})
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.fixture
def app(database_url: str) -> Iterator[TestApp]:
    """Make the application, as `pserve` serves it, on the test's database."""
    assert os.environ["DATABASE_URL"] == database_url
    wsgi_app = main({}, **get_appsettings(INI_FILE))
    yield TestApp(wsgi_app)
    wsgi_app.registry["heartbeat"].dispose()
    wsgi_app.registry["dbsession_factory"].kw["bind"].dispose()


@pytest.fixture
def command(database_url: str) -> Command:
    """Call a command of `heartbeat`, as from a shell. Return what it prints as JSON."""

    def call(*arguments: str) -> Any:
        assert os.environ["DATABASE_URL"] == database_url
        result = CliRunner().invoke(heartbeat, [*arguments, "--json", "-c", INI_FILE])
        assert result.stdout, result.output
        return json.loads(result.stdout)

    return call


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the folder that the flow `import_csv` reads."""
    folder = tmp_path / "var" / "inbox"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return folder
