"""What a rendered project promises on each Python that is installed here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_project import all_ran, make_project, user_environment

VERSIONS = ("3.11", "3.12", "3.13")
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"


def find_python(version: str) -> str:
    """Find a Python that works, and can make environments: on the PATH, or one of pyenv's."""
    name = f"python{version}"
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    on_path = shutil.which(name)
    places = [Path(on_path)] if on_path else []
    for python in [*places, *root.glob(f"versions/{version}.*/bin/{name}")]:
        # A shim of pyenv's is there for every version, and works for those that are chosen alone.
        found = subprocess.run(
            [str(python), "-c", "import ensurepip, sys, venv; print(sys.executable)"],
            capture_output=True,
            check=False,
            text=True,
        )
        if found.returncode == 0:
            return str(found.stdout.strip())
    pytest.skip(f"Python {version} is not installed")


@pytest.mark.install
@pytest.mark.slow
@pytest.mark.parametrize("version", [version for version in VERSIONS if version != RUNNING])
def test_a_project_is_set_up_and_passes_its_tests_on_each_python(
    tmp_path: Path, version: str
) -> None:
    python = find_python(version)
    project = make_project(tmp_path, user_environment(tmp_path), HEARTBEAT_SETUP="0")

    said = project.done("make", "setup", f"PYTHON={python}")

    assert f".venv made, Python {version}\n" in said
    assert project.heartbeat("check").status == 0
    all_ran(project.done("make", "test"))
