"""What rendering promises: a project set up in one go, and kept whatever goes wrong."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import post_gen_project
import pytest
from conftest import Child, Finished, Tools, cookiecutter_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CURL = 'curl -X POST -H "Authorization: Bearer $(.venv/bin/heartbeat token show)"'
TOKENS = ("beat.token", "operator.token")


class Place:
    """A folder to render the small template into, with the stand-in on the PATH."""

    def __init__(self, folder: Path, template: Path, config: Path, tools: Tools) -> None:
        """Take everything that rendering needs."""
        self.folder = folder
        self.template = template
        self.config = config
        self.environment = tools.environment
        self.project = folder / "data_flows"

    def start(self, *more: str, **environment: str) -> Child:
        """Begin to render."""
        command = cookiecutter_command(self.template, self.config, *more)
        return Child(command, self.folder, self.environment | environment)

    def render(self, **environment: str) -> Finished:
        """Render to the end."""
        return self.start(**environment).finish()


@pytest.fixture
def place(tmp_path: Path, small_template: Path, config: Path, tools: Tools) -> Place:
    """A folder whose name has to be quoted."""
    folder = tmp_path / "two words"
    folder.mkdir()
    return Place(folder, small_template, config, tools)


def test_rendering_sets_the_project_up_and_ends_with_lines_to_paste(
    place: Place, tools: Tools
) -> None:
    result = place.render()

    assert result.status == 0
    assert not list((place.project / "scripts").glob("__pycache__"))
    assert [call.split()[:2] for call in tools.calls()] == [
        ["uv", "--version"],
        ["uv", "venv"],
        ["uv", "pip"],
        ["python", "-m"],
    ]
    assert result.output.splitlines()[-3:] == [
        f"cd '{place.project}'",
        ".venv/bin/pserve development.ini",
        f"{CURL} http://localhost:6543/heartbeat",
    ]


def test_each_step_is_a_line_with_its_seconds(place: Place) -> None:
    lines = place.render().output.splitlines()

    for name in ("secrets", "environment", "install", "migrate"):
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert re.match(rf"  {name} \.+ \d+\.\d s", line)


def test_no_secret_is_printed_or_logged(place: Place) -> None:
    result = place.render()

    log = (place.project / "var" / "setup.log").read_text()
    for name in TOKENS:
        secret = (place.project / "var" / name).read_text().strip()
        assert len(secret) >= 43
        assert secret not in result.everything + log


def test_setup_0_leaves_everything_and_prints_how(place: Place, tools: Tools) -> None:
    result = place.render(HEARTBEAT_SETUP="0")

    assert result.everything == (
        "Set-up skipped (HEARTBEAT_SETUP=0). When you want it: "
        f"cd '{place.project}' && make setup\n"
    )
    assert result.status == 0
    assert tools.calls() == []
    assert not (place.project / "var").exists()


@pytest.mark.parametrize("step", ["FAKE_VENV", "FAKE_INSTALL", "FAKE_MIGRATE"])
def test_a_step_that_fails_leaves_the_project_and_names_the_cause(place: Place, step: str) -> None:
    result = place.render(**{step: "the cat is on the cable", "FAKE_OFFLINE": "not in the cache"})

    assert result.status == 0
    assert "failed: the cat is on the cable\n" in result.errors
    assert f"cd '{place.project}'" in result.errors.splitlines()
    assert result.errors.splitlines()[-1] == "make setup"
    assert (place.project / "pyproject.toml").is_file()
    for name in TOKENS:
        assert (place.project / "var" / name).is_file()


def test_a_broken_setup_script_leaves_the_project(place: Place) -> None:
    script = place.template / "{{cookiecutter.project_slug}}" / "scripts" / "bootstrap.py"
    script.write_text("raise SystemExit('no')")

    result = place.render()

    assert result.status == 0
    assert result.errors == (
        f"The set-up stopped (SystemExit: no). To go on: cd '{place.project}' && make setup\n"
    )


@pytest.mark.parametrize("setup", ["0", "1"])
def test_the_terminal_need_not_show_the_path(place: Place, setup: str) -> None:
    place.folder = place.folder / "Übung"
    place.folder.mkdir()

    result = place.render(HEARTBEAT_SETUP=setup, PYTHONIOENCODING="ascii", PYTHONUTF8="0")

    assert result.status == 0
    assert "\\xdcbung" in result.output
    assert result.errors == ""


@pytest.mark.parametrize("setup", ["0", "1"])
def test_the_reader_of_the_output_may_end(place: Place, setup: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)

    status = subprocess.run(
        cookiecutter_command(place.template, place.config),
        cwd=place.folder,
        env=place.environment | {"HEARTBEAT_SETUP": setup},
        stdout=writer,
        stderr=writer,
        check=False,
    ).returncode
    os.close(writer)

    assert status == 0
    assert (place.project / "var" / "beat.token").exists() == (setup == "1")


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")]
)
def test_a_stop_ends_every_child_and_prints_what_is_left(
    place: Place, tools: Tools, number: signal.Signals, name: str
) -> None:
    child = place.start(FAKE_INSTALL="hang")
    tools.wait_until_one_hangs()

    child.interrupt(number)
    result = child.finish()

    tools.wait_until_none_lives()
    assert f"The set-up was stopped by {name}." in result.errors
    assert "make setup" in result.errors.splitlines()
    assert (place.project / "var" / "beat.token").is_file()


def test_the_end_of_cookiecutter_alone_ends_every_child(place: Place, tools: Tools) -> None:
    child = place.start(FAKE_INSTALL="hang")
    tools.wait_until_one_hangs()

    child.process.terminate()
    result = child.finish()

    tools.wait_until_none_lives()
    assert "The set-up was stopped by the end of its parent process." in result.errors
    assert (place.project / "pyproject.toml").is_file()


def test_a_second_ctrl_c_does_not_cut_the_report(place: Place, tools: Tools) -> None:
    child = place.start(FAKE_INSTALL="hang, deaf to SIGTERM")
    tools.wait_until_one_hangs()

    child.interrupt(signal.SIGINT)
    child.interrupt(signal.SIGINT)
    result = child.finish()

    tools.wait_until_none_lives()
    assert "make setup" in result.errors.splitlines()


def test_the_printed_commands_finish_the_job_when_pasted(place: Place, tools: Tools) -> None:
    result = place.render(FAKE_VENV="broken")
    before = len(tools.calls())
    lines = result.errors.splitlines()
    commands = lines[lines.index("The project is in place. What is left to do:") + 1 :]
    commands = commands[: commands.index("or, in short:")]

    subprocess.run(
        ["sh", "-e", "-c", "\n".join(commands)], cwd="/", env=place.environment, check=True
    )

    assert [call.split()[:2] for call in tools.calls()[before:]] == [
        ["uv", "venv"],
        ["uv", "pip"],
        ["python", "-m"],
    ]


class Cruft:
    """A template in git, and cruft with a temporary directory of its own."""

    def __init__(self, place: Place, scratch: Path) -> None:
        """Put the small template into git."""
        self.place = place
        self.scratch = scratch
        self.environment = place.environment | {
            "TMPDIR": str(scratch),
            "COOKIECUTTER_CONFIG": str(place.config),
            "GIT_CONFIG_GLOBAL": os.devnull,
            **{f"GIT_{who}_NAME": "A Person" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "person@example.org" for who in ("AUTHOR", "COMMITTER")},
        }
        self.git(place.template, "init", "--quiet")
        self.commit(place.template)

    def git(self, folder: Path, *words: str) -> None:
        """Run git."""
        subprocess.run(["git", *words], cwd=folder, env=self.environment, check=True)

    def commit(self, folder: Path) -> None:
        """Commit all that is not ignored."""
        self.git(folder, "add", "--all")
        self.git(folder, "commit", "--quiet", "--message", "Change")

    def __call__(self, folder: Path, *words: str, **environment: str) -> Finished:
        """Run cruft."""
        command = [sys.executable, "-m", "cruft", *words]
        return Child(command, folder, self.environment | environment).finish()

    def create(self, folder: Path, **environment: str) -> Finished:
        """Render the template."""
        return self(folder, "create", str(self.place.template), "--no-input", **environment)


@pytest.fixture
def cruft(place: Place, tmp_path: Path) -> Cruft:
    """cruft, and the small template committed."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Cruft(place, scratch)


@pytest.fixture
def created(cruft: Cruft) -> Iterator[Path]:
    """A project that cruft has rendered and set up, committed; its secrets must stay."""
    assert cruft.create(cruft.place.folder).status == 0
    project = cruft.place.project
    cruft.git(project, "init", "--quiet")
    cruft.commit(project)
    before = {name: (project / "var" / name).read_text() for name in TOKENS}
    yield project
    assert {name: (project / "var" / name).read_text() for name in TOKENS} == before


def test_cruft_create_sets_the_project_up(cruft: Cruft, tools: Tools) -> None:
    result = cruft.create(cruft.place.folder)

    assert result.status == 0
    assert result.output.splitlines()[-3] == f"cd '{cruft.place.project}'"
    assert tools.calls() != []


@pytest.mark.parametrize("folder", [".", "demo", "tmp0123abcd/demo"])
def test_cruft_create_in_the_temporary_directory_is_real_too(cruft: Cruft, folder: str) -> None:
    place = cruft.scratch / folder
    place.mkdir(parents=True, exist_ok=True)

    result = cruft.create(place)

    assert result.status == 0
    assert (place / "data_flows" / "var" / "beat.token").is_file()


def test_cruft_create_beside_other_files_of_a_scratch_folder_is_real_too(cruft: Cruft) -> None:
    place = cruft.scratch / "tmp0123abcd"
    place.mkdir()
    (place / "notes").touch()

    result = cruft.create(place)

    assert result.status == 0
    assert (place / "data_flows" / "var" / "beat.token").is_file()


@pytest.mark.parametrize(
    ("answers", "rehearsal"),
    [({"_commit": "abc"}, True), ({"_commit": "abc", "_output_dir": "/srv"}, False), ({}, False)],
)
def test_only_cruft_rehearses(
    answers: dict[str, str], rehearsal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "tmp0123abcd" / "data_flows"
    project.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    assert post_gen_project.is_rehearsal(answers, project) is rehearsal


@pytest.mark.parametrize("setup", ["0", "1"])
def test_cruft_diff_is_empty_after_create(
    cruft: Cruft, created: Path, tools: Tools, setup: str
) -> None:
    calls = tools.calls()

    result = cruft(created, "diff", HEARTBEAT_SETUP=setup)

    assert result == Finished(0, "", "")
    assert tools.calls() == calls


def test_cruft_update_brings_the_templates_changes_alone(
    cruft: Cruft, created: Path, tools: Tools
) -> None:
    calls = tools.calls()
    news = cruft.place.template / "{{cookiecutter.project_slug}}" / "NEWS"
    news.write_text("new in {{ cookiecutter.project_slug }}\n")
    cruft.commit(cruft.place.template)

    result = cruft(created, "update", "--skip-apply-ask")

    assert result.status == 0
    assert result.output.splitlines() == [
        "Good work! Project's cruft has been updated and is as clean as possible!"
    ]
    assert result.errors == ""
    assert (created / "NEWS").read_text() == "new in data_flows\n"
    status = subprocess.run(
        ["git", "status", "--short"], cwd=created, capture_output=True, text=True, check=True
    )
    assert sorted(status.stdout.split()) == sorted(["M", ".cruft.json", "A", "NEWS"])
    assert tools.calls() == calls
    assert [left for left in cruft.scratch.iterdir() if left.is_dir()] == []


def test_the_line_for_later_can_be_pasted(place: Place, tools: Tools) -> None:
    line = place.render(HEARTBEAT_SETUP="0").output.strip()
    command = line.partition("When you want it: ")[2]

    subprocess.run(["sh", "-c", command], cwd="/", env=place.environment, check=True)

    assert shlex.split(tools.calls()[-1])[-4:] == [
        "data_flows.heartbeat",
        "migrate",
        "-c",
        "development.ini",
    ]
