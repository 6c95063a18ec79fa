"""What scripts/bootstrap.py promises after an interruption: running it again is all it takes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from conftest import Child, SmallProject, link_commands
from test_project import Project, make_project, user_environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MADE_AGAIN = ".venv made again, since it "


def test_running_it_again_keeps_the_environment_and_changes_nothing(project: SmallProject) -> None:
    project.set_up()
    mark = project.folder / ".venv" / "mine"
    mark.touch()

    result = project.set_up()

    assert result.status == 0
    assert mark.exists()
    assert not [call for call in project.tools.calls()[4:] if call.startswith("uv venv")]


def test_running_it_again_completes_a_partial_setup(project: SmallProject) -> None:
    failed = project.set_up(FAKE_INSTALL="no network", FAKE_OFFLINE="not in the cache")
    before = project.secrets()
    calls = project.tools.calls()

    result = project.set_up()

    assert failed.status == 1
    assert result.status == 0
    assert [call.split()[:3] for call in project.tools.calls()[len(calls) :]] == [
        ["uv", "--version"],
        ["python", "-c", "import"],
        ["uv", "pip", "install"],
        ["python", "-m", "data_flows.heartbeat"],
    ]
    assert project.secrets() == before


def test_an_environment_without_python_is_replaced(project: SmallProject) -> None:
    broken = project.folder / ".venv" / "lib" / "broken"
    broken.mkdir(parents=True)

    result = project.set_up()

    assert result.status == 0
    assert not broken.exists()


def test_an_environment_that_was_moved_is_replaced(project: SmallProject) -> None:
    project.set_up()
    pserve = project.folder / ".venv" / "bin" / "pserve"
    pserve.write_text("#!/old/place/.venv/bin/python\n")

    result = project.set_up()

    assert result.status == 0
    assert not pserve.exists()


def add_package(project: SmallProject, *missing: str) -> Path:
    """Put a package into .venv, but for some of its files; give the folder of packages."""
    packages = project.folder / ".venv" / "lib" / "python3.11" / "site-packages"
    record = "bird.py,,\n__pycache__/bird.pyc,,\nbird-1.dist-info/METADATA,,\n"
    files = {
        "bird.py": "",
        "bird-1.dist-info/METADATA": "Name: bird",
        "bird-1.dist-info/RECORD": record,
    }
    for name, text in files.items():
        if name not in missing:
            (packages / name).parent.mkdir(parents=True, exist_ok=True)
            (packages / name).write_text(text)
    return packages


def stop(child: Child) -> None:
    """Press Ctrl-C."""
    child.interrupt(signal.SIGINT)


def kill(child: Child) -> None:
    """Kill the set-up, which has no time to do anything about its commands."""
    child.process.kill()


@pytest.mark.parametrize("end", [stop, kill])
def test_an_interrupted_installation_is_repeated(
    project: SmallProject, end: Callable[[Child], None]
) -> None:
    child = project.start(FAKE_INSTALL="hang")
    project.tools.wait_until_one_hangs()
    packages = add_package(project)
    end(child)
    if end is kill:
        project.tools.end_the_hanging_one()
    first = child.finish()
    project.tools.wait_until_none_lives()

    result = project.set_up()

    assert result.status == 0
    assert f"{MADE_AGAIN}was not finished" in result.output
    assert not packages.exists()
    if end is stop:
        lines = first.errors.splitlines()
        assert lines[lines.index(f"cd '{project.folder}'") + 1] == "rm -rf .venv"


def test_the_printed_commands_finish_what_was_cut_off(project: SmallProject) -> None:
    child = project.start(FAKE_INSTALL="hang")
    project.tools.wait_until_one_hangs()
    packages = add_package(project)
    stop(child)
    lines = child.finish().errors.splitlines()
    commands = lines[lines.index(f"cd '{project.folder}'") : lines.index("or, in short:")]

    subprocess.run(
        ["sh", "-e", "-c", "\n".join(commands)],
        cwd="/",
        env=project.tools.environment,
        check=True,
    )
    result = project.set_up()

    assert not packages.exists()
    assert ".venv kept" in result.output


def test_an_interrupted_later_installation_is_repeated(project: SmallProject) -> None:
    project.set_up()
    packages = add_package(project)
    child = project.start(FAKE_INSTALL="hang")
    project.tools.wait_until_one_hangs()
    (packages / "half").mkdir()
    stop(child)
    child.finish()

    assert not (project.folder / ".venv" / "installed").exists()
    assert f"{MADE_AGAIN}was not finished" in project.set_up().output


@pytest.mark.parametrize("how", [{"FAKE_INSTALL": "no network", "FAKE_OFFLINE": "no"}, {}])
def test_an_environment_is_kept_where_nothing_was_written(
    project: SmallProject, how: dict[str, str]
) -> None:
    project.set_up()
    packages = add_package(project)
    installed = project.folder / ".venv" / "installed"
    os.utime(installed, (1, 1))
    if how:
        project.set_up(**how)
    else:
        child = project.start(FAKE_INSTALL="hang")
        project.tools.wait_until_one_hangs()
        stop(child)
        child.finish()

    assert installed.stat().st_mtime == 1
    assert ".venv kept" in project.set_up().output
    assert packages.exists()


def test_an_environment_of_the_users_own_is_kept(project: SmallProject) -> None:
    project.set_up()
    add_package(project)
    (project.folder / ".venv" / "installed").unlink()
    mine = project.folder / ".venv" / "mine"
    mine.touch()

    result = project.set_up()

    assert ".venv kept" in result.output
    assert mine.exists()


@pytest.mark.parametrize(
    "missing", ["bird.py", "bird-1.dist-info/METADATA", "bird-1.dist-info/RECORD"]
)
def test_an_environment_whose_packages_lack_files_is_replaced(
    project: SmallProject, missing: str
) -> None:
    project.set_up()
    packages = add_package(project, missing)

    result = project.set_up()

    assert f"{MADE_AGAIN}lacked lib/python3.11/site-packages/{missing}, " in result.output
    assert not packages.exists()


def test_a_set_up_waits_for_what_a_killed_one_has_left_running(project: SmallProject) -> None:
    killed = project.start(FAKE_INSTALL="hang")
    project.tools.wait_until_one_hangs()
    kill(killed)
    killed.process.wait()
    before = len(project.tools.calls())
    assert killed.process.stdout is not None
    second = project.start()
    assert second.process.stdout is not None
    said = ""
    while "waits for another set-up" not in said:
        said += second.process.stdout.read(1)
    assert project.tools.calls()[before:] == []

    project.tools.end_the_hanging_one()

    assert second.finish().status == 0
    assert [call.split()[:2] for call in project.tools.calls()[before:]] == [
        ["uv", "--version"],
        ["uv", "venv"],
        ["uv", "pip"],
        ["python", "-m"],
    ]
    killed.finish()


def test_ctrl_c_ends_the_wait_for_another_set_up(project: SmallProject) -> None:
    other = project.start(FAKE_INSTALL="hang")
    project.tools.wait_until_one_hangs()
    second = project.start()
    assert second.process.stdout is not None
    said = ""
    while "waits for another set-up" not in said:
        said += second.process.stdout.read(1)

    stop(second)
    result = second.finish()

    assert result.status == 128 + signal.SIGINT
    assert "The set-up was stopped by Ctrl-C." in result.errors
    stop(other)
    other.finish()


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Python 3.13 reads any path")
def test_a_folder_that_python_cannot_read_is_named_with_the_fix(project: SmallProject) -> None:
    folder = project.folder.with_name("Käuzchen")
    project.folder.rename(folder)
    project.folder = folder

    result = project.set_up(LC_ALL="C")
    fixed = project.set_up(LC_ALL="C.UTF-8")

    assert result.status == 1
    (cause,) = [line for line in result.errors.splitlines() if "The step environment" in line]
    assert "run `export LC_ALL=C.UTF-8` first, or move the project" in cause
    assert fixed.status == 0


# ---------------------------------------------------------------------------------------------
# With real installers


def entries(project: Project) -> int:
    """Count what the installer has put beside the other packages."""
    return sum(1 for _ in project.folder.glob(".venv/lib/python*/site-packages/*"))


@pytest.mark.install
@pytest.mark.parametrize(
    ("installer", "number", "count"),
    [
        ("uv", signal.SIGKILL, 12),
        pytest.param("uv", signal.SIGINT, 3, marks=pytest.mark.slow),
        pytest.param("uv", signal.SIGINT, 50, marks=pytest.mark.slow),
        pytest.param("uv copy", signal.SIGKILL, 40, marks=pytest.mark.slow),
        pytest.param("pip", signal.SIGINT, 20, marks=pytest.mark.slow),
        pytest.param("pip", signal.SIGKILL, 80, marks=pytest.mark.slow),
    ],
)
def test_a_set_up_that_was_cut_off_among_packages_is_repaired_by_the_next(
    tmp_path: Path, installer: str, number: signal.Signals, count: int
) -> None:
    environment = user_environment(tmp_path)
    if installer == "uv copy":
        environment["UV_LINK_MODE"] = "copy"
    if installer == "pip":
        environment["PATH"] = link_commands(tmp_path / "without_uv", "make", "sh")
    project = make_project(tmp_path, environment, HEARTBEAT_SETUP="0")
    child = Child(["make", "setup"], project.folder, environment)
    while child.process.poll() is None and entries(project) < count:
        time.sleep(0.002)

    child.interrupt(number)
    child.finish()
    result = project.run("make", "setup", HEARTBEAT_SETUP="")

    assert result.status == 0, result.everything
    assert f"{MADE_AGAIN}was not finished" in result.output
    assert project.heartbeat("check").status == 0
    project.done(".venv/bin/python", "-m", "pytest", "-q", "--no-cov", "tests/test_home.py")
