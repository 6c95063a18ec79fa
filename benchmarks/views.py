"""The application in the starter's shape: its installation, and its views as in production."""

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
# As many web threads as the rendered project's; the tables are created in each new database.
PRODUCTION = (
    ("pyramid.reload_templates = true", "pyramid.reload_templates = false"),
    ("pyramid.includes = pyramid_debugtoolbar", "starter.create = yes"),
    ("listen = localhost:6543", "listen = localhost:6543\nthreads = 8"),
    ("level = DEBUG", "level = WARN"),
)


@dataclass(frozen=True)
class Starter:
    """The application in a folder with an environment of its own."""

    folder: Path

    @contextmanager
    def served(self, url: str) -> Iterator[Server]:
        """Serve its views on a database, as in production."""
        ini = (self.folder / "development.ini").read_text()
        ini = ini.replace("sqlite:///%(here)s/starter.sqlite", url.replace("%", "%%"))
        for before, after in PRODUCTION:
            ini = ini.replace(before, after)
        with serve(str(self.folder / ".venv/bin/pserve"), self.folder, ini, clean()) as server:
            yield server


def install(folder: Path, constraints: Path) -> Starter:
    """Install it into a folder, with the versions that the rendered project has."""
    copy_source(folder)
    make_environment(folder, "-c", str(constraints), "-e", ".[testing]", *DRIVERS)
    python = str(folder / ".venv" / "bin" / "python")
    subprocess.run([python, "-m", "compileall", "-q", "starter"], cwd=folder, check=True)
    return Starter(folder)


def copy_source(folder: Path) -> None:
    """Copy its files into a new folder."""
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__"))


def make_template(folder: Path) -> Path:
    """Make a template for cookiecutter that renders it; return the template's folder."""
    copy_source(folder / "{{cookiecutter.repo_name}}")
    answers = {"repo_name": "starter", "_copy_without_render": ["*"]}
    (folder / "cookiecutter.json").write_text(json.dumps(answers))
    return folder


def installed_versions(python: Path) -> dict[str, str]:
    """Return the versions of all packages of an environment."""
    code = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
    )
    done = subprocess.run(
        [str(python), "-c", code], capture_output=True, check=True, env=dict(os.environ), text=True
    )
    versions: dict[str, str] = json.loads(done.stdout)
    return versions
