"""What UPGRADING.md promises: followed by hand, from the first release to here."""

from __future__ import annotations

import re
import shutil
import subprocess
import uuid
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from conftest import TEMPLATE, make_config, render_into
from test_project import Project, make_project, server_url, user_environment
from test_rendering import DATABASES, ENGINE

if TYPE_CHECKING:
    from pathlib import Path

# The commit of the first release, 0.1.0; it has no tag.
FIRST_RELEASE = "7302ee1"
PACKAGE = "src/data_flows"


def extract_first_release(folder: Path) -> Path:
    """Write the template as it was released first; without git's history the test is skipped."""
    command = ["git", "archive", FIRST_RELEASE]
    done = subprocess.run(command, cwd=TEMPLATE, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("the history of the template is not here")
    folder.mkdir()
    subprocess.run(["tar", "-x"], cwd=folder, input=done.stdout, check=True)
    return folder


def named_files() -> list[str]:
    """Give the files with which the points of UPGRADING.md begin, above the first release."""
    section = (TEMPLATE / "UPGRADING.md").read_text().partition("\n## 0.1.0\n")[0]
    heads = re.findall(r"^- ((?:`[^`]+`(?:,| and)? ?)+)", section, re.MULTILINE)
    names = [name for head in heads for name in re.findall(r"`([^`]+)`", head)]
    return [name.replace("src/YOUR_PACKAGE", PACKAGE) for name in names]


@pytest.mark.install
@pytest.mark.slow
@pytest.mark.parametrize("kind", DATABASES)
def test_the_first_release_is_upgraded_by_hand(tmp_path: Path, kind: str) -> None:
    server = None if kind == "sqlite" else server_url(kind)
    environment = user_environment(tmp_path)
    name = f"heartbeat_upgrade_{uuid.uuid4().hex[:8]}"
    if server:
        environment["DATABASE_URL"] = urlsplit(server)._replace(path=f"/{name}").geturl()
    old = extract_first_release(tmp_path / "first")
    project = make_project(tmp_path, environment, kind, template=old)
    try:
        upgrade_by_hand(
            project, render_into(tmp_path / "new", make_config(tmp_path), database=kind)
        )
        project.run_tests(**({"TEST_DATABASE_URL": server} if server else {}))
        project.done(".venv/bin/ruff", "check", ".")
        project.done(".venv/bin/mypy")
    finally:
        if server:
            project.sql(server, f"DROP DATABASE {name}")


def upgrade_by_hand(project: Project, new: Path) -> None:
    """Follow UPGRADING.md with a project that has run a flow, and whose flow has an odd name."""
    assert project.heartbeat("beat").status == 0
    url = project.environment.get(
        "DATABASE_URL", f"sqlite:///{project.folder}/var/data_flows.sqlite"
    )
    rename = "UPDATE data_flows SET name = 'Käuzchen 🦉', next_run_at = '2999-01-01'"
    project.sql(url, rename)

    shutil.rmtree(project.folder / PACKAGE / "heartbeat")
    shutil.copytree(new / PACKAGE / "heartbeat", project.folder / PACKAGE / "heartbeat")
    shutil.rmtree(project.folder / "tests" / "heartbeat")
    (project.folder / "tests" / "factories.py").unlink()
    for name in filter(lambda name: (new / name).is_file(), named_files()):
        shutil.copy(new / name, project.folder / name)
    project.done("make", "setup")

    checked = project.heartbeat("check")
    assert checked.status == 0, checked.everything
    version = (ENGINE / "VERSION").read_text().strip()
    assert f"engine {version}, unchanged" in checked.output
    [run] = project.runs()
    assert (run["flow"], run["status"]) == ("Käuzchen 🦉", "success")
    assert project.heartbeat("beat").status == 0  # registers the flow under its own name again
    assert [run["status"] for run in project.runs()] == ["success", "success"]
