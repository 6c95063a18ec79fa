"""The starter-shaped application: its environment, and its views as production serves them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .project import DRIVERS, clean, make_environment
from .serving import Server, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parent / "starter"
# What the Pylons starter requires, with what its tests and its toolbar need.
REQUIREMENTS = (
    *("plaster_pastedeploy", "pyramid", "pyramid_jinja2", "pyramid_debugtoolbar", "waitress"),
    *("alembic", "pyramid_retry", "pyramid_tm", "SQLAlchemy", "transaction", "zope.sqlalchemy"),
    *("WebTest", "pytest", "pytest-cov", "setuptools<80.9"),
)
# As many web threads as the rendered project's.
PRODUCTION = (
    ("pyramid.reload_templates = true", "pyramid.reload_templates = false"),
    ("pyramid.includes = pyramid_debugtoolbar\n", ""),
    ("listen = localhost:6543", "listen = localhost:6543\nthreads = 8"),
    ("level = DEBUG", "level = WARN"),
)


@dataclass(frozen=True)
class Starter:
    """The application in a folder with an environment of its own."""

    folder: Path

    @property
    def pserve(self) -> str:
        """The command that serves it."""
        return str(self.folder / ".venv" / "bin" / "pserve")

    @property
    def environment(self) -> dict[str, str]:
        """What its process needs to find it."""
        return clean() | {"PYTHONPATH": str(self.folder)}

    def ini(self, url: str | None = None, *, production: bool = False) -> str:
        """Give its .ini file, for another database if one is given."""
        text = (SOURCE / "development.ini").read_text()
        if url:
            text = text.replace("sqlite:///%(here)s/starter.sqlite", url.replace("%", "%%"))
        for before, after in PRODUCTION if production else ():
            text = text.replace(before, after)
        return text

    @contextmanager
    def served(self, url: str) -> Iterator[Server]:
        """Serve its views on a database, as in production."""
        ini = self.ini(url, production=True)
        with serve(self.pserve, self.folder, ini, self.environment) as server:
            yield server


def install(folder: Path, constraints: Path) -> Starter:
    """Put it into a folder, with the very versions that the rendered project has."""
    folder.mkdir()
    shutil.copytree(SOURCE, folder / "starter", ignore=shutil.ignore_patterns("__pycache__"))
    make_environment(folder, "-c", str(constraints), *REQUIREMENTS, *DRIVERS)
    python = str(folder / ".venv" / "bin" / "python")
    subprocess.run([python, "-m", "compileall", "-q", "starter"], cwd=folder, check=True)
    return Starter(folder)


def installed_versions(python: Path) -> dict[str, str]:
    """Give the versions of all packages of an environment."""
    code = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
    )
    told = subprocess.run(
        [str(python), "-c", code], capture_output=True, check=True, env=dict(os.environ), text=True
    )
    versions: dict[str, str] = json.loads(told.stdout)
    return versions
