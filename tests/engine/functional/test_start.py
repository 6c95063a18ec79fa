"""What stops a start is one line on standard error, of real processes of a real project."""

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from data_flows import heartbeat

from ..conftest import INI_FILE, TOKEN

PACKAGE = Path(str(heartbeat.__file__)).parents[1]
SLUG = PACKAGE.name
PROJECT = Path(INI_FILE).parent
BIN = Path(sys.executable).parent
PROGRAMS = {
    "heartbeat": [str(BIN / "heartbeat"), "flows"],
    "module": [sys.executable, "-m", f"{SLUG}.heartbeat", "flows"],
    "pserve": [str(BIN / "pserve"), "development.ini"],
}
HIDE = """
import os, sys
sys.modules |= dict.fromkeys(os.environ.get("HIDDEN", "").split())
"""
FLOW = "from ..heartbeat import Run, flow\n\n\n"
SECONDS = 300

each_program = pytest.mark.parametrize("program", PROGRAMS)
two_programs = pytest.mark.parametrize("program", ["heartbeat", "pserve"])


class Copy:
    """A copy of the project, and its programs."""

    def __init__(self, folder: Path, database_url: str) -> None:
        shutil.copytree(PACKAGE, folder / SLUG, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("development.ini", "production.ini"):
            shutil.copy(PROJECT / name, folder)
        (folder / "sitecustomize.py").write_text(HIDE)
        self.folder, self.ini = folder, folder / "development.ini"
        self.flow = folder / SLUG / "flows" / "birds.py"
        settings = {"DATABASE_URL": database_url, "HEARTBEAT_TOKEN": TOKEN}
        # Compiled once for all starts.
        settings |= {"PYTHONPATH": str(folder), "PYTHONPYCACHEPREFIX": str(folder.parent / "pyc")}
        self.environment = {**os.environ, **settings, "PYTHONDONTWRITEBYTECODE": ""}
        self.environment.pop("HEARTBEAT_CONFIG", None)

    def change(self, old: str, new: str) -> None:
        """Change the .ini file."""
        text = self.ini.read_text()
        assert old in text
        self.ini.write_text(text.replace(old, new))

    def start(
        self, program: str, *more: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Start a program, which is to end by itself."""
        return subprocess.run(  # noqa: S603 - our own programs
            [*PROGRAMS[program], *more],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def refusal(self, program: str, *more: str, **environment: str) -> str:
        """Start a program that refuses to; return the one line that it prints."""
        ended = self.start(program, *more, **environment)
        # The output of pserve itself before it listens.
        lines = [line for line in ended.stderr.splitlines() if not line.startswith("Starting ")]
        assert ended.returncode in {1, 2}, ended.stderr
        assert len(lines) == 1, ended.stderr
        assert lines[0].startswith("Error: ")
        return lines[0]


@pytest.fixture
def copy(tmp_path: Path, database_url: str) -> Copy:
    """Copy the project, to break it."""
    return Copy(tmp_path, database_url)


# ---------------------------------------------------------------------------------------------
# Flows

WRONG = {
    "option": ('@flow(evry="5m")\ndef greet(run): ...', 'did you mean every, as in every="5m"?'),
    "bare": ("@flow\ndef greet(run): ...", '@flow(every="5m")'),
    "after": ('@flow(every="5m", after=["gret"])\ndef greet(run): ...', "did you mean greet?"),
    "error": ("rows = int('three')", "ValueError: invalid literal for int()"),
    "syntax": ("def greet(run:", "SyntaxError: '(' was never closed"),
    "name": ("from ..heartbeat import Flow", "ImportError: cannot import name 'Flow'"),
}


@pytest.mark.parametrize(
    ("program", "wrong"),
    [*(("heartbeat", each) for each in WRONG), ("pserve", "option"), ("pserve", "error")],
)
def test_a_flow_that_cannot_be_stops_the_start_in_one_line(
    copy: Copy, program: str, wrong: str
) -> None:
    source, reported = WRONG[wrong]
    copy.flow.write_text(FLOW + source + "\n")

    line = copy.refusal(program)

    assert f"{copy.flow}, line 4: " in line
    assert reported in line


def test_two_flows_of_one_name_stop_the_start_with_both_places(copy: Copy) -> None:
    source = '@flow(every="5m")\ndef greet(run): ...\n\n\n@flow(cron="@daily", name="greet")\n'
    copy.flow.write_text(f"{FLOW}{source}def other(run): ...\n")

    line = copy.refusal("heartbeat")

    assert {f"{copy.flow}, line {number}" in line for number in (4, 8)} == {True}


@two_programs
def test_the_traceback_is_printed_when_asked_for(copy: Copy, program: str) -> None:
    copy.flow.write_text(f"{FLOW}rows = int('three')\n")

    ended = copy.start(program, {"heartbeat": "--debug", "pserve": "-v"}[program])

    assert ended.returncode == 1
    assert "Traceback (most recent call last)" in ended.stderr
    assert "    rows = int('three')" in ended.stderr


# ---------------------------------------------------------------------------------------------
# Packages


@each_program
def test_a_package_that_is_missing_after_an_update_is_named(copy: Copy, program: str) -> None:
    line = copy.refusal(program, HIDDEN="cronsim")

    assert "the package cronsim is not installed" in line
    assert "run `make setup`" in line


def test_a_package_that_a_flow_imports_is_named_with_its_place(copy: Copy) -> None:
    copy.flow.write_text("import no_such_package\n")

    line = copy.refusal("heartbeat")

    assert f"no_such_package is not installed, which {copy.flow}, line 1 imports: run" in line


@two_programs
def test_a_production_without_the_toolbar_names_its_own_file(copy: Copy, program: str) -> None:
    line = copy.refusal(program, HIDDEN="pyramid_debugtoolbar")

    assert "pyramid_debugtoolbar is not installed, which " in line
    assert "development.ini names: run `make setup`" in line
    assert "HEARTBEAT_CONFIG=production.ini" in line


def test_heartbeat_config_names_the_file(copy: Copy) -> None:
    config = {"HIDDEN": "pyramid_debugtoolbar", "HEARTBEAT_CONFIG": "production.ini"}

    ended = copy.start("heartbeat", **config)

    assert ended.returncode == 0
    assert json.loads(ended.stderr)["message"] == "flow import_csv is registered: every 1m"


# ---------------------------------------------------------------------------------------------
# The .ini file


@two_programs
def test_a_lone_percent_sign_is_named_without_the_password(copy: Copy, program: str) -> None:
    copy.change("sqlalchemy.url = ", "sqlalchemy.url = postgresql://joe:hun%40ter2@db/ ")

    line = copy.refusal(program)

    assert "development.ini cannot be used: 'sqlalchemy.url' in [app:main] has a % that" in line
    assert "write %% for each %" in line
    assert "ter2" not in line


@two_programs
def test_a_missing_section_is_named(copy: Copy, program: str) -> None:
    copy.change("[app:main]", "[app:other]")

    assert "development.ini cannot be used: it has no section [app:main]" in copy.refusal(program)


@two_programs
def test_all_problems_of_settings_are_reported_a_line_each(copy: Copy, program: str) -> None:
    ended = copy.start(program, HEARTBEAT_WORKERS="many", HEARTBEAT_WAIT="soon")

    lines = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert [line.partition(": ")[0] for line in lines] == ["Error", "Error"]
    assert "heartbeat.workers is 'many'" in ended.stderr
    assert "valid is, for example, 25s" in ended.stderr


# ---------------------------------------------------------------------------------------------
# The server


def test_a_port_in_use_is_named_with_the_line_to_change(copy: Copy) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        copy.change("listen = localhost:6543", f"listen = 127.0.0.1:{port}")

        line = copy.refusal("pserve")

    assert f"127.0.0.1:{port} is in use by another process" in line
    assert "`listen = localhost:6544` in [server:main] of development.ini" in line


def test_a_setting_of_the_server_that_does_not_exist_is_named(copy: Copy) -> None:
    copy.change("threads = 8", "thread = 8")

    line = copy.refusal("pserve")

    assert "[server:main] of development.ini cannot be used: Unknown adjustment 'thread'" in line
