"""`heartbeat new` in a rendered project: what it writes is ready to run, and passes `make sure`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from test_project import Project, all_ran, make_project, user_environment

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.install, pytest.mark.xdist_group("new")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that the tests here add flows to."""
    folder = tmp_path_factory.mktemp("new")
    return make_project(folder, user_environment(folder))


def new(project: Project, *words: str) -> tuple[list[str], list[str]]:
    """Write a flow; return the files that were written, and the commands that come next."""
    output = project.done(".venv/bin/heartbeat", "new", *words)
    written, _, commands = output.partition("next:\n")
    files = [line.removeprefix("wrote ") for line in written.splitlines()]
    assert all((project.folder / file).is_file() for file in files)
    return files, [line.strip() for line in commands.splitlines()]


def python_files(project: Project) -> set[Path]:
    """Return the project's own modules and tests."""
    return {*project.package.rglob("*.py"), *(project.folder / "tests").rglob("*.py")}


def test_new_flows_are_ready_to_run_and_pass_make_sure(project: Project) -> None:
    greet, next_of_greet = new(project, "greet", "--every", "300")
    # As long as a line of the table's test permits, and as short as can be.
    long = "take_stock_of_birds_in_parks_each_day"
    stock, next_of_stock = new(project, long, "--cron", "0  3 * * *", "--table")
    new(project, "b", "--cron", "0 3 * * MON-FRI", "--timezone", "Europe/Berlin", "--table")

    output = project.paste([*next_of_greet, *next_of_stock])
    sure = project.done("make", "sure")

    assert greet == ["src/data_flows/flows/greet.py", "tests/test_greet.py"]
    assert stock[2:] == [
        f"src/data_flows/models/{long}.py",
        f"src/data_flows/migrations/versions/0002_{long}_records.py",
    ]
    assert '@flow(every="5m")' in (project.folder / greet[0]).read_text()
    assert '@flow(cron="0 3 * * *")' in (project.folder / stock[0]).read_text()
    assert "1 passed" in output
    assert {run["status"] for run in project.runs()} == {"success"}
    all_ran(sure)
    assert project.heartbeat("check").status == 0


def test_with_several_heads_nothing_is_written(project: Project) -> None:
    versions = project.package / "migrations" / "versions"
    second = versions / "9999_second.py"
    first = (versions / "0001_csv_import.py").read_text()
    second.write_text(first.replace('revision = "0001"', 'revision = "9999"'))
    before = python_files(project)

    refused = project.heartbeat("new", "count_birds", "--every", "5m", "--table")
    after = python_files(project)
    second.unlink()

    assert refused.status == 1
    [line] = refused.errors.splitlines()
    assert line.startswith("Error: your migrations have several heads: run `alembic -c ")
    assert after == before


def test_without_a_package_for_flows_the_way_to_one_is_printed(project: Project) -> None:
    folder = project.package / "flows"
    (folder / "__init__.py").rename(folder / "away.txt")
    before = python_files(project)

    refused = project.heartbeat("new", "count_birds", "--every", "5m")
    after = python_files(project)
    (folder / "away.txt").rename(folder / "__init__.py")

    assert refused.status == 1
    [line] = refused.errors.splitlines()
    assert f"create {folder}/__init__.py, and call config.scan(" in line
    assert after == before


def test_a_flow_is_written_without_a_database(project: Project, tmp_path: Path) -> None:
    missing = f"sqlite:///{tmp_path}/missing.sqlite"

    written = project.heartbeat("new", "count_clouds", "--every", "5m", DATABASE_URL=missing)

    assert written.status == 0, written.everything
    assert not (tmp_path / "missing.sqlite").exists()
