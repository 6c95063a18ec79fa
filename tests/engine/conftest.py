"""What the engine's tests stand on: databases, applications, and a clock to turn.

The database is a temporary SQLite file. Where TEST_DATABASE_URL names a server's database, it is a
new database beside that one, dropped at the end.
"""

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pyramid.config import Configurator
from pyramid.paster import get_appsettings
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows import main
from data_flows.heartbeat import Heartbeat
from data_flows.heartbeat.cli import main as heartbeat_command
from data_flows.heartbeat.clock import Clock
from data_flows.heartbeat.db import Limits, make_engine
from data_flows.heartbeat.models import EngineBase
from data_flows.models import Base

from .delivery import EXECUTOR
from .entrances import ENTRANCES, Declare
from .notes import Note
from .receiver import Receiver, receiving

DATABASE = make_url(os.environ.get("TEST_DATABASE_URL") or "sqlite://").get_backend_name()
TOKEN = "a-token-for-tests-and-nothing-else"  # noqa: S105 - no secret
# What a shell has exported for the application, another Python or a terminal changes no test.
EXPORTED = ("HEARTBEAT_", "DATABASE_URL", "PYTHON", "COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR")
for name in [name for name in os.environ if name.startswith((*EXPORTED, "TERM", "TTY_"))]:
    del os.environ[name]

INI_FILE = os.path.abspath("testing.ini")  # noqa: PTH100 - tests may change the folder


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers of these tests."""
    config.addinivalue_line("markers", "slow: takes minutes")
    config.addinivalue_line("markers", "local_executor(reason): is about the local executor alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With another executor, deselect the tests that are about the local one alone."""
    if EXECUTOR == "local":
        return
    others = [item for item in items if item.get_closest_marker("local_executor")]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


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


@pytest.fixture(scope="session")
def cleaning_engine(database_url: str) -> Engine:
    """Make the engine that empties the tables; it keeps no connection between tests."""
    return make_engine(make_url(database_url), limits=Limits(write_lock=10))


@pytest.fixture(autouse=True)
def _empty_tables(cleaning_engine: Engine) -> Iterator[None]:
    """Leave no row behind: each test starts with empty tables."""
    yield
    with cleaning_engine.begin() as connection:
        for metadata in (EngineBase.metadata, Base.metadata):
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
    cleaning_engine.dispose()


@pytest.fixture
def app(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestApp]:
    """Make the whole application, as `pserve` would serve it."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("HEARTBEAT_TOKEN", TOKEN)
    wsgi_app = main({}, **get_appsettings(INI_FILE))
    yield TestApp(wsgi_app)
    end(wsgi_app.registry["heartbeat"])
    wsgi_app.registry["dbsession_factory"].kw["bind"].dispose()


@pytest.fixture
def fresh_database_url(tmp_path: Path) -> Iterator[str]:
    """Name a database that does not exist yet, beside that of TEST_DATABASE_URL or as a file."""
    server = os.environ.get("TEST_DATABASE_URL")
    if not server:
        yield f"sqlite:///{tmp_path / 'fresh.sqlite'}"
        return
    name = f"heartbeat_test_{uuid.uuid4().hex[:8]}"
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    owner = create_engine(server, isolation_level="AUTOCOMMIT")
    with owner.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name}")
    owner.dispose()


# Character sets that a database may have by default, and a driver's connection by its URL.
CHARACTER_SETS = {
    "sqlite": ["UTF-8"],
    "postgresql": ["UTF8", "LATIN1", "SQL_ASCII"],
    "mysql": ["utf8mb4", "utf8mb3", "latin1"],
}[DATABASE]


@pytest.fixture(params=CHARACTER_SETS)
def character_set(request: pytest.FixtureRequest) -> str:
    """Name the default character set of `narrow_database_url`."""
    return str(request.param)


@pytest.fixture
def narrow_database_url(fresh_database_url: str, character_set: str) -> str:
    """Make an empty database with a default character set; return its URL."""
    create = {
        "postgresql": f"ENCODING '{character_set}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'",
        "mysql": f"CHARACTER SET {character_set}",
    }.get(DATABASE)
    if create:
        owner = create_engine(os.environ["TEST_DATABASE_URL"], isolation_level="AUTOCOMMIT")
        with owner.connect() as connection:
            name = make_url(fresh_database_url).database
            connection.exec_driver_sql(f"CREATE DATABASE {name} {create}")
        owner.dispose()
    return fresh_database_url


@pytest.fixture
def narrow_url(narrow_database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Migrate that database as a user does, and set it for applications; return its URL."""
    monkeypatch.setenv("DATABASE_URL", narrow_database_url)
    result = CliRunner().invoke(heartbeat_command, ["migrate", "-c", INI_FILE])
    assert result.exit_code == 0, result.output
    return narrow_database_url


class FakeClock(Clock):
    """A clock that stands still until a test moves it. Sleeping moves it too."""

    def __init__(self, start: datetime = datetime(2026, 3, 1, 12, tzinfo=UTC)) -> None:
        self.time = start
        self.seconds = 0.0

    def now(self) -> datetime:
        """Return the time it shows."""
        return self.time

    def monotonic(self) -> float:
        """Return the seconds it was moved ahead."""
        return self.seconds

    def sleep(self, seconds: float) -> None:
        """Move ahead instead of waiting."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move ahead, the monotonic clock too."""
        self.time += timedelta(seconds=seconds)
        self.seconds += seconds

    def leap(self, seconds: float) -> None:
        """Set the wall clock ahead or back, as an operator or NTP does."""
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> FakeClock:
    """Make the clock of the applications that `make_app` makes in this test."""
    return FakeClock()


@pytest.fixture
def declare(request: pytest.FixtureRequest) -> Declare:
    """Declare flows by the directive, or as `both_entrances` decides."""
    return ENTRANCES[getattr(request, "param", "directive")]


MakeApp = Callable[..., TestApp]


@pytest.fixture
def notes(database_url: str) -> Iterator[None]:
    """Make the table that flows of tests write to, and drop it after the test."""
    engine = make_engine(make_url(database_url))
    Note.metadata.create_all(engine)
    engine.dispose()  # a test may cut what is kept open
    yield
    Note.metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture
def make_app(database_url: str, clock: FakeClock, declare: Declare) -> Iterator[MakeApp]:
    """Make an application of the engine alone, with flows of the test's own.

    make_app(function, (function, {"every": "1m"}), **{"heartbeat.workers": "2"}): a bare function
    is due every five minutes. Settings are given as in an .ini file.
    """
    heartbeats = []

    def make(*flows: Any, configure: Callable[[Any], None] | None = None, **ini: str) -> TestApp:
        settings = {"sqlalchemy.url": database_url, "heartbeat.token": TOKEN, **ini}
        with Configurator(settings=settings) as config:
            config.include("data_flows.heartbeat")
            heartbeat: Heartbeat = config.registry["heartbeat"]
            heartbeat.clock = clock
            heartbeats.append(heartbeat)
            for flow in flows:
                function, options = flow if isinstance(flow, tuple) else (flow, {})
                declare(config, function, {"every": "5m", **options})
            if configure is not None:
                configure(config)
            return TestApp(config.make_wsgi_app())

    yield make
    for heartbeat in heartbeats:
        end(heartbeat)


def end(heartbeat: Heartbeat) -> None:
    """Dispose of a heartbeat, after the end of the beats and runs that hold its connections.

    A connection that is returned later would be found open by the garbage collector.
    """
    heartbeat.executor.stop()
    heartbeat.executor.wait_until_idle(1)
    for thread in threading.enumerate():
        if thread.name == "heartbeat-beat":
            thread.join(1)
    alarms: Any = heartbeat.alarms
    for _ in range(10):  # its thread uses the database
        if alarms is None or alarms.flush():
            break
    heartbeat.dispose()


def heartbeat_of(app: TestApp) -> Heartbeat:
    """Return the heartbeat of an application made by `make_app`."""
    wsgi_app: Any = app.app
    heartbeat: Heartbeat = wsgi_app.registry["heartbeat"]
    return heartbeat


@pytest.fixture
def post() -> Callable[..., Any]:
    """Beat an application over WSGI with the token; return the response."""

    def call(app: TestApp, *, status: int = 200, **headers: str) -> Any:
        return app.post(
            "/heartbeat", headers={"Authorization": f"Bearer {TOKEN}", **headers}, status=status
        )

    return call


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Make a receiver of pings or of the webhook."""
    with receiving() as receiver:
        yield receiver
