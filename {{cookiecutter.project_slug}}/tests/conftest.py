"""Shared by all tests: a migrated database for each of them, the application, and its commands."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pyramid.paster import get_appsettings
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

from .database import create_database, without_rows

Command = Callable[..., Any]

# The fixture `run_flow`, which runs a flow in the session of `dbsession`.
pytest_plugins = "{{cookiecutter.project_slug}}.heartbeat.optional.testing"

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


@pytest.fixture(scope="session")
def migrated_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Create and migrate a database, once."""
    with create_database(tmp_path_factory.mktemp("database")) as url:
        migrate(url)
        yield url


@pytest.fixture
def database_url(
    migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Give this test a database without rows. The application and its commands use it."""
    with without_rows(migrated_url, tmp_path) as url:
        monkeypatch.setenv("DATABASE_URL", url)
        monkeypatch.setenv("HEARTBEAT_TOKEN", TOKEN)
        yield url


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
