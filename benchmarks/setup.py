"""What a person waits for: the set-up beside a bare installation, `pserve` beside a starter's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

from .bench import Bench, in_turn
from .growth import middle
from .project import TOOLS, clean, render
from .report import Bar
from .serving import start, wait_until_ready

SET_UP_LIMIT = READY_LIMIT = 1.3


def set_up(bench: Bench) -> None:
    """Measure the set-up with each tool, and then how soon its project answers."""
    with_uv = clean()
    folders = with_uv["PATH"].split(os.pathsep)
    without = [folder for folder in folders if not (Path(folder) / "uv").exists()]
    with_pip = with_uv | {"PATH": os.pathsep.join(without)}
    uv, python = str(TOOLS / "uv"), sys.executable
    into = ["-p", ".venv/bin/python"]
    project = compare(
        bench,
        "uv",
        bench.sizes.set_ups,
        with_uv,
        [[uv, "venv", "-p", python, ".venv"], [uv, "pip", "install", *into]],
    )
    if bench.sizes.pip_set_ups:
        commands = [[python, "-m", "venv", ".venv"], [".venv/bin/python", "-m", "pip", "install"]]
        compare(bench, "pip", bench.sizes.pip_set_ups, with_pip, commands)
    ready(bench, project)


def compare(
    bench: Bench, tool: str, rounds: int, environment: dict[str, str], commands: list[list[str]]
) -> Path:
    """Set up and install in turn, both by one tool with a warm cache; give the project's folder."""
    folder, bare_folder = bench.folder / f"set-up-{tool}", bench.folder / f"bare-{tool}"
    project = folder / "data_flows"

    def whole() -> list[float]:
        shutil.rmtree(folder, ignore_errors=True)
        began = time.perf_counter()
        render(folder, set_up=environment)
        seconds = time.perf_counter() - began
        if not list((project / "var").glob("*.sqlite")):
            raise RuntimeError((project / "var" / "setup.log").read_text()[-2000:])
        return [seconds]

    def bare() -> list[float]:
        shutil.rmtree(bare_folder, ignore_errors=True)
        bare_folder.mkdir()
        shutil.copy(project / "constraints.txt", bare_folder)
        make, install = commands
        began = time.perf_counter()
        for command in (make, [*install, "-c", "constraints.txt", *requirements(project)]):
            subprocess.run(
                command, cwd=bare_folder, env=environment, capture_output=True, check=True
            )
        return [time.perf_counter() - began]

    whole()  # fills the cache
    found, _ = in_turn(
        rounds, {f"set-up with {tool}": whole, f"bare installation with {tool}": bare}
    )
    ours = middle(found[f"set-up with {tool}"])
    theirs = middle(found[f"bare installation with {tool}"])
    text = f"rendering, installation and migration, beside a bare installation (both by {tool})"
    bench.report.bars.append(Bar("6", text, SET_UP_LIMIT, ours / theirs))
    bench.report.note(
        f"Set-up with {tool}, its cache warm: {ours} s; bare installation of the same requirements "
        f"with their constraints: {theirs} s."
    )
    return project


def requirements(project: Path) -> list[str]:
    """Give what a project requires, with what its development requires."""
    told = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    return [*told["dependencies"], *told["optional-dependencies"]["dev"]]


def ready(bench: Bench, project: Path) -> None:
    """Compare how long `pserve` takes until its home page is answered, both with a SQLite file."""

    def work(pserve: str, folder: Path, ini: str, environment: dict[str, str]) -> list[float]:
        began = time.perf_counter()
        server = start(pserve, folder, ini, environment)
        wait_until_ready(server)
        seconds = time.perf_counter() - began
        server.connection.close()
        server.process.terminate()
        server.process.wait()
        return [seconds]

    pserve = str(project / ".venv" / "bin" / "pserve")
    ini = (project / "development.ini").read_text()
    starter = bench.starter
    works = {
        "pserve of a starter": lambda: work(
            starter.pserve, starter.folder, starter.ini(), starter.environment
        ),
        "pserve of the project": lambda: work(pserve, project, ini, clean()),
    }
    in_turn(1, works)  # compiles
    found, _ = in_turn(bench.sizes.set_ups * 2, works)
    ours, theirs = middle(found["pserve of the project"]), middle(found["pserve of a starter"])
    text = "`pserve development.ini` ready, beside a project of the starter's shape"
    bench.report.bars.append(Bar("6", text, READY_LIMIT, ours / theirs))
    bench.report.note(f"`pserve` ready: {ours} s; of the starter's shape: {theirs} s.")
