"""Where the files of a new flow belong: found from the application that has been started."""

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ... import core
from ...errors import DataFlowError

ENGINE = core.__name__.rpartition(".")[0]


@dataclass(frozen=True)
class Project:
    """The package that contains the engine, and the folder of its .ini file.

    flows, tests: the folders for a new flow and for its test.
    """

    package: str
    root: Path
    flows: Path
    tests: Path

    def module(self, name: str) -> ModuleType | None:
        """Return a module of the package if the application has imported it."""
        return sys.modules.get(f"{self.package}.{name}")


def find_project(config: str) -> Project:
    """Return the project of an application that was started with the .ini file `config`.

    Raises DataFlowError with what is missing.
    """
    package = ENGINE.rpartition(".")[0]
    root = Path(config.partition("#")[0]).resolve().parent
    folder = Path(str(core.__file__)).parents[1] / "flows"
    project = Project(package, root, folder, root / "tests")
    scan = f'call config.scan("{package}.flows") in main(), after config.include("{ENGINE}")'
    if not (folder / "__init__.py").is_file():
        module = folder.with_suffix(".py")
        how = f"move {module} to" if module.is_file() else "create"
        message = f"there is no package for flows beside the engine: {how} {folder}/__init__.py"
        raise DataFlowError(f"{message}, and {scan}")
    if project.module("flows") is None:
        raise DataFlowError(f"the application of {config} does not scan {package}.flows: {scan}")
    if "site-packages" in folder.parts:
        message = f"the project is installed as a copy, in {folder}: write the flow where you"
        raise DataFlowError(f"{message} develop it, with the .ini file of that folder")
    if not (project.tests / "conftest.py").is_file():
        message = f"there is no {project.tests}/conftest.py, which the flow's test needs"
        raise DataFlowError(f"{message}: name the project's own .ini file with -c, or create it")
    return project


def write_files(files: Mapping[Path, str]) -> None:
    """Write all of these new files, or none. Raises DataFlowError, also if one of them exists."""
    for path in files:
        # A package would hide a module of its name, or the other way round.
        for taken in (path, path.with_suffix("")):
            if taken.exists():
                raise DataFlowError(f"{taken} exists already: choose another name")
    try:
        with ExitStack() as undo:
            for path, text in files.items():
                with path.open("x", encoding="utf-8", newline="\n") as file:
                    undo.callback(path.unlink)
                    file.write(text)
            undo.pop_all()
    except OSError as error:
        raise DataFlowError(f"nothing was written: {error}") from error
