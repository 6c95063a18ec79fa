"""What the tests of chaos share: a project, a server of each kind, and databases of their own."""

from __future__ import annotations

import os
import secrets
import uuid
from typing import TYPE_CHECKING, Protocol

import pytest

from .databases import KINDS, Database, NotInstalledError, make_database
from .processes import Project, Site, install

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from _pytest.mark import ParameterSet

SEEDS = 1_000_000


class MakeSite(Protocol):
    """Makes a database, and what serves flows on it."""

    def __call__(self, flows: str, source: Path | None = None) -> Site:
        """Make it."""


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that the tests leave as it is, with the drivers of all databases."""
    return install(tmp_path_factory.mktemp("chaos"))


def on(kind: str, *more: str) -> ParameterSet:
    """Parametrize by a database; what uses the same one goes to the same worker."""
    return pytest.param(kind, *more, marks=pytest.mark.xdist_group(f"chaos {kind}"))


@pytest.fixture(scope="session")
def celery_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose flows run on Celery workers."""
    return install(tmp_path_factory.mktemp("chaos_celery"), "celery")


@pytest.fixture(scope="session", params=[on(kind) for kind in KINDS])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A place for databases; skipped where its server is not installed."""
    try:
        database = make_database(request.param)
    except NotInstalledError as error:
        pytest.skip(str(error))
    yield database
    database.close()


@pytest.fixture
def make_site(project: Project, database: Database, tmp_path: Path) -> Iterator[MakeSite]:
    """Makes sites, and ends all their processes."""
    sites: list[Site] = []

    def make(flows: str, source: Path | None = None) -> Site:
        url = database.url(f"chaos_{uuid.uuid4().hex[:8]}")
        sites.append(Site(project, tmp_path / f"site_{len(sites)}", url, flows, source))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def seed() -> int:
    """A seed of its own for each test, or that of the environment variable SEED."""
    seed = int(os.environ.get("SEED") or secrets.randbelow(SEEDS))
    print(f"seed {seed}")
    return seed
