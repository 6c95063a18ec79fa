"""The rules of runs hold in every order of events that Hypothesis finds, on three databases.

What happens and what must be true is written in run_rules.py, which runs within a rendering.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TEMPLATE, make_config, render_into

pytestmark = [pytest.mark.install, pytest.mark.xdist_group("run_rules")]

# How many examples there is time for. Servers answer more slowly than a file.
EXAMPLES = {"sqlite": "30", "postgresql": "5", "mysql": "5"}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendering, with Hypothesis and all drivers, and the rules among its tests."""
    folder = tmp_path_factory.mktemp("run_rules")
    project = render_into(folder, make_config(folder), project_name="Rules")
    shutil.copy(
        TEMPLATE / "tests" / "run_rules.py", project / "tests" / "heartbeat" / "test_run_rules.py"
    )
    uv = str(Path(sys.executable).with_name("uv"))
    more = ["hypothesis", "psycopg[binary]", "pymysql[rsa]"]
    for command in (
        [uv, "venv", "--quiet", "-p", sys.executable, ".venv"],
        [uv, "pip", "install", "--quiet", "-p", ".venv/bin/python", "-e", ".[dev]", *more],
    ):
        done = subprocess.run(command, cwd=project, capture_output=True, check=False, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.mark.parametrize("kind", EXAMPLES)
def test_the_rules_hold_in_every_order_of_events(rendered: Path, kind: str) -> None:
    variable = f"TEST_{kind.upper()}_URL"
    server = os.environ.get(variable, "")
    if kind != "sqlite" and not server:
        pytest.skip(f"{variable} names no server")
    ours = ("HEARTBEAT_", "DATABASE_URL", "PYTEST_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environment |= {"RULES_EXAMPLES": os.environ.get("RULES_EXAMPLES", EXAMPLES[kind])}

    done = subprocess.run(
        [".venv/bin/python", "-m", "pytest", "-q", "tests/heartbeat/test_run_rules.py"],
        cwd=rendered,
        env=environment | {"TEST_DATABASE_URL": server},
        capture_output=True,
        check=False,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
