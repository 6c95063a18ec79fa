"""The time from `cookiecutter` to the first page, and of `pserve` alone, beside a starter's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .bench import Bench, in_turn
from .growth import middle, nth
from .project import TEMPLATE, TOOLS, clean, render
from .report import Bar
from .serving import start, wait_until_ready
from .views import make_template

SET_UP_LIMIT, READY_LIMIT = 1.0, 1.3
ALEMBIC = ["env/bin/alembic", "-c", "development.ini"]
TESTS = ["env/bin/pytest"]


def set_up(bench: Bench) -> None:
    """Measure the set-up with each tool, and the start of the server alone."""
    with_uv = clean()
    folders = with_uv["PATH"].split(os.pathsep)
    without = [folder for folder in folders if not (Path(folder) / "uv").exists()]
    with_pip = with_uv | {"PATH": os.pathsep.join(without)}
    project, starter = compare(bench, "uv", bench.sizes.set_ups, with_uv)
    if bench.sizes.pip_set_ups:
        compare(bench, "pip", bench.sizes.pip_set_ups, with_pip)
    ready(bench, project, starter)


def starter_steps(tool: str) -> list[list[str]]:
    """Return the commands that the README of the Pylons starter lists, but for the last one.

    uv takes the place of venv and pip; it needs no upgrade of pip.
    """
    if tool == "uv":
        uv = str(TOOLS / "uv")
        install = [
            [uv, "venv", "-p", sys.executable, "env"],
            [uv, "pip", "install", "-p", "env/bin/python", "-e", ".[testing]"],
        ]
    else:
        install = [
            [sys.executable, "-m", "venv", "env"],
            ["env/bin/pip", "install", "--upgrade", "pip"],
            ["env/bin/pip", "install", "-e", ".[testing]"],
        ]
    return [
        *install,
        [*ALEMBIC, "revision", "--autogenerate", "-m", "init"],
        [*ALEMBIC, "upgrade", "head"],
        ["env/bin/initialize_starter_db", "development.ini"],
        TESTS,
    ]


def compare(bench: Bench, tool: str, rounds: int, environment: dict[str, str]) -> tuple[Path, Path]:
    """Set up both in turn by one tool, its cache warm; return the folders of both projects."""
    ours, theirs = bench.folder / f"set-up-{tool}", bench.folder / f"starter-{tool}"
    template = make_template(bench.folder / f"starter-template-{tool}")
    project, starter = ours / "data_flows", theirs / "starter"

    def set_up_project() -> list[float]:
        shutil.rmtree(ours, ignore_errors=True)
        began = time.perf_counter()
        render(TEMPLATE, ours, environment)
        if not list((project / "var").glob("*.sqlite")):
            raise RuntimeError((project / "var" / "setup.log").read_text()[-2000:])
        seconds = time.perf_counter() - began
        return [seconds + first_page(project, ".venv/bin/pserve")]

    def set_up_starter() -> list[float]:
        shutil.rmtree(theirs, ignore_errors=True)
        began, testing = time.perf_counter(), 0.0
        render(template, theirs, environment)
        for command in starter_steps(tool):
            step_began = time.perf_counter()
            subprocess.run(command, cwd=starter, env=environment, capture_output=True, check=True)
            if command is TESTS:
                testing = time.perf_counter() - step_began
        seconds = time.perf_counter() - began + first_page(starter, "env/bin/pserve")
        return [seconds, seconds - testing]

    names = f"set-up with {tool}", f"starter's steps with {tool}"
    for work in (set_up_project, set_up_starter):  # fills the cache
        work()
    found, _ = in_turn(rounds, dict(zip(names, (set_up_project, set_up_starter), strict=True)))
    seconds = nth(found[names[0]], 0)
    theirs_seconds, without_tests = (nth(found[names[1]], number) for number in range(2))
    text = f"from `cookiecutter` to the first 200, beside the starter's documented steps, by {tool}"
    bench.report.bars.append(Bar("7", text, SET_UP_LIMIT, seconds / theirs_seconds))
    bench.report.note(
        f"From `cookiecutter` to the first 200 with {tool}, its cache warm: {seconds} s; by the "
        f"starter's documented steps, which run its tests before `pserve`: {theirs_seconds} s. "
        f"Without its tests: {without_tests} s, a ratio of {seconds / without_tests}."
    )
    return project, starter


def first_page(folder: Path, pserve: str) -> float:
    """Return the seconds that `pserve development.ini` takes until its home page is served."""
    began = time.perf_counter()
    server = start(str(folder / pserve), folder, (folder / "development.ini").read_text(), clean())
    wait_until_ready(server)
    seconds = time.perf_counter() - began
    server.stop()
    return seconds


def ready(bench: Bench, project: Path, starter: Path) -> None:
    """Compare how long `pserve` takes until its home page is served, both with a SQLite file."""
    works = {
        "pserve of a starter": lambda: [first_page(starter, "env/bin/pserve")],
        "pserve of the project": lambda: [first_page(project, ".venv/bin/pserve")],
    }
    found, _ = in_turn(bench.sizes.ready_rounds, works)
    ours, theirs = middle(found["pserve of the project"]), middle(found["pserve of a starter"])
    text = "`pserve development.ini` ready, beside a project of the starter's shape"
    bench.report.bars.append(Bar("7", text, READY_LIMIT, ours / theirs))
    bench.report.note(f"`pserve` ready: {ours} s; of the starter's shape: {theirs} s.")
