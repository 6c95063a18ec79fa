"""What the engine's tests add: applications with flows of the test's own, and a clock to turn."""

import os
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyramid.config import Configurator
from sqlalchemy import create_engine, make_url
from webtest import TestApp

from {{cookiecutter.project_slug}}.heartbeat import (
    Heartbeat,
)
from {{cookiecutter.project_slug}}.heartbeat.db import (
    make_engine,
)

from .notes import Note

TOKEN = "a-token-for-tests-and-nothing-else"  # noqa: S105 - no secret


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


class FakeClock:
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
def make_app(database_url: str, clock: FakeClock) -> Iterator[MakeApp]:
    """Make an application of the engine alone, with flows of the test's own.

    make_app(function, (function, {"every": "1m"}), **{"heartbeat.workers": "2"}): a bare function
    is due every five minutes. Settings are given as in an .ini file.
    """
    engines = []

    def make(*flows: Any, configure: Callable[[Any], None] | None = None, **ini: str) -> TestApp:
        settings = {"sqlalchemy.url": database_url, "heartbeat.token": TOKEN, **ini}
        with Configurator(settings=settings) as config:
            config.include("{{cookiecutter.project_slug}}.heartbeat")
            heartbeat: Heartbeat = config.registry["heartbeat"]
            heartbeat.clock = clock
            engines.append(heartbeat.engine)
            for flow in flows:
                function, options = flow if isinstance(flow, tuple) else (flow, {})
                config.add_flow(function, **{"every": "5m", **options})
            if configure is not None:
                configure(config)
            return TestApp(config.make_wsgi_app())

    yield make
    for engine in engines:
        engine.dispose()


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
