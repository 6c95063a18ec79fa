"""What scripts/bootstrap.py promises as `make setup`: it can always be run again, and mends."""

from __future__ import annotations

import os
import signal
import stat
import sys
from typing import TYPE_CHECKING

import bootstrap
import pytest
from conftest import SECRET_FILES, Child, Finished, SmallProject

if TYPE_CHECKING:
    from pathlib import Path


def mode(path: Path) -> int:
    """Give who may do what with a file or a folder."""
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_long_different_and_for_the_owner_alone(project: SmallProject) -> None:
    previous = os.umask(0)
    try:
        result = project.set_up()
    finally:
        os.umask(previous)

    assert result.status == 0
    first, second = project.secrets()
    assert first != second
    assert min(len(first.strip()), len(second.strip())) >= 43
    assert mode(project.folder / "var") == 0o700
    assert [mode(project.folder / name) for name in (*SECRET_FILES, "var/setup.log")] == [0o600] * 3
    assert (project.folder / "var" / "inbox").is_dir()


def test_secrets_are_never_overwritten_and_closed_again(project: SmallProject) -> None:
    project.set_up()
    before = project.secrets()
    (project.folder / "var").chmod(0o755)
    (project.folder / "var" / "beat.token").chmod(0o644)

    result = project.set_up()

    assert result.status == 0
    assert project.secrets() == before
    assert mode(project.folder / "var") == 0o700
    assert mode(project.folder / "var" / "beat.token") == 0o600


def test_an_empty_secret_of_a_killed_setup_is_made(project: SmallProject) -> None:
    project.set_up()
    first, second = project.secrets()
    (project.folder / "var" / "beat.token").write_text("")

    project.set_up()

    new, kept = project.secrets()
    assert len(new.strip()) >= 43
    assert new != first
    assert kept == second


def test_secrets_need_neither_network_nor_tools(project: SmallProject) -> None:
    result = project.set_up(FAKE_VENV="no")

    assert result.status == 1
    assert all(project.secrets())


def test_packages_come_in_the_tested_versions_and_without_other_pythons(
    project: SmallProject,
) -> None:
    project.set_up()

    venv, install, migrate = project.tools.calls()[1:]
    assert "--no-python-downloads" in venv.split()
    assert "--no-python-downloads" in install.split()
    assert install.endswith("-c constraints.txt -e .[dev]")
    assert migrate == "python -m data_flows.heartbeat migrate -c development.ini"


def test_the_cache_serves_where_there_is_no_network(project: SmallProject) -> None:
    result = project.set_up(FAKE_INSTALL="error: Failed to fetch")

    assert result.status == 0
    assert project.tools.calls()[-2].endswith("--offline")


def test_what_a_shell_has_set_for_others_is_kept_from_the_tools(project: SmallProject) -> None:
    misleading = dict.fromkeys(
        (
            *("PIP_USER", "PIP_TARGET", "PIP_CONSTRAINT", "PIP_QUIET", "PIP_NO_DEPS", "PIP_PYTHON"),
            *("UV_SYSTEM_PYTHON", "UV_CONSTRAINT", "UV_PYTHON", "UV_NO_BUILD", "UV_RESOLUTION"),
            *("PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS", "PYTHONOPTIMIZE", "PYTHONINSPECT"),
            *("CONDA_PREFIX", "CONDA_DEFAULT_ENV", "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT"),
            *("COLUMNS", "LINES", "FORCE_COLOR", "CLICOLOR_FORCE"),
        ),
        "",
    )
    needed = dict.fromkeys(
        (
            *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_CERT"),
            *("PIP_TRUSTED_HOST", "PIP_PROXY", "PIP_DEFAULT_TIMEOUT", "PIP_CACHE_DIR"),
            *("UV_DEFAULT_INDEX", "UV_INDEX_OURS_PASSWORD", "UV_INDEX_STRATEGY", "UV_CACHE_DIR"),
            *("UV_NATIVE_TLS", "UV_OFFLINE", "UV_HTTP_TIMEOUT", "UV_LINK_MODE", "HTTPS_PROXY"),
        ),
        "as set",
    )

    project.set_up(**misleading, **needed)

    seen = project.tools.seen_environment()
    assert not seen.keys() & misleading.keys()
    assert seen.items() >= needed.items()
    assert seen["PATH"]


def test_a_failed_step_is_named_with_its_cause_and_its_log(project: SmallProject) -> None:
    result = project.set_up(FAKE_MIGRATE="no server at db.example: createdb data_flows")

    assert result.status == 1
    assert result.errors.splitlines() == [
        "",
        "The step migrate failed: no server at db.example: createdb data_flows",
        f"All output is in {project.folder}/var/setup.log",
        "",
        "The project is in place. What is left to do:",
        "",
        f"cd '{project.folder}'",
        ".venv/bin/python -m data_flows.heartbeat migrate -c development.ini",
        "",
        "or, in short:",
        "",
        "make setup",
    ]
    assert "some words before" in (project.folder / "var" / "setup.log").read_text()


def test_the_cause_is_the_last_word_of_a_program_that_buffers_others(project: SmallProject) -> None:
    result = project.set_up(FAKE_MIGRATE="python")

    assert "The step migrate failed: the cause\n" in result.errors


def test_a_database_from_outside_is_named(project: SmallProject) -> None:
    result = project.set_up(DATABASE_URL="postgresql://db.example/other")

    assert "database of DATABASE_URL up to date" in result.output
    assert "db.example" not in result.everything


def test_a_var_that_cannot_be_made_is_named(project: SmallProject) -> None:
    (project.folder / "var").write_text("in the way")

    result = project.set_up()

    assert result.status == 1
    assert "The step secrets failed: " in result.errors
    assert result.errors.splitlines()[-2:] == [f"cd '{project.folder}'", "make setup"]


def test_a_pyproject_that_cannot_be_read_is_named(project: SmallProject) -> None:
    (project.folder / "pyproject.toml").write_text("[project\n")

    result = project.set_up()

    assert result.status == 1
    (line,) = result.errors.splitlines()
    assert line.startswith("pyproject.toml does not tell the name of the project: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_ends_every_child_with_a_line(project: SmallProject, number: signal.Signals) -> None:
    child = project.start(FAKE_MIGRATE="hang")
    project.tools.wait_until_one_hangs()

    child.interrupt(number)
    result = child.finish()

    project.tools.wait_until_none_lives()
    assert result.status == 128 + number
    assert "The set-up was stopped by " in result.errors
    assert result.errors.splitlines()[-1] == "make setup"


def test_a_child_that_is_deaf_to_sigterm_is_killed(project: SmallProject) -> None:
    child = project.start(FAKE_INSTALL="hang, deaf to SIGTERM")
    project.tools.wait_until_one_hangs()

    child.interrupt(signal.SIGTERM)
    result = child.finish()

    project.tools.wait_until_none_lives()
    assert result.status == 128 + signal.SIGTERM


@pytest.mark.install
def test_without_uv_venv_and_pip_do_it_and_an_environment_without_pip_goes(
    project: SmallProject,
) -> None:
    bare = Child(
        [sys.executable, "-m", "venv", "--without-pip", ".venv"], project.folder, dict(os.environ)
    )
    assert bare.finish().status == 0

    result = project.set_up(
        FAKE_VERSION="uv: command not found", PIP_NO_INDEX="1", PIP_FIND_LINKS=""
    )

    python = project.folder / ".venv" / "bin" / "python"
    has_pip = Child([str(python), "-m", "pip", "--version"], project.folder, dict(os.environ))
    assert has_pip.finish().status == 0
    assert "The step install failed: " in result.errors
    assert "the requirement flit_core" in result.errors
    assert ".venv/bin/python -m pip install -c constraints.txt -e '.[dev]'" in result.errors


UV_UNREACHABLE = """\
Using Python 3.11.7 environment at: .venv
error: Request failed after 3 retries
  cause: Failed to fetch: https://index.example/simple/venusian/
  cause: dns error
"""
UV_UNSOLVED = """\
  \u00d7 No solution found when resolving dependencies:
  \u2570\u2500\u25b6 Because a needs b, nothing fits.
"""
PIP_UNREACHABLE = """\
WARNING: Retrying after connection broken by 'X': /simple/venusian/
ERROR: Could not find a version of venusian
ERROR: No matching distribution found for venusian
"""
PIP_BUILD = """\
  error: subprocess-exited-with-error
  \u00d7 pip subprocess to install build dependencies did not run successfully.
  \u2570\u2500> [2 lines of output]
      ERROR: Could not find a version of flit_core
"""
DEBIAN = """\
The virtual environment was not created successfully because ensurepip is not
available.

Failing command: /srv/.venv/bin/python3
"""


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        (
            UV_UNREACHABLE,
            "the package index cannot be reached: Request failed after 3 retries: dns error",
        ),
        (
            UV_UNSOLVED,
            "No solution found when resolving dependencies: Because a needs b, nothing fits.",
        ),
        (
            PIP_UNREACHABLE,
            "the package index cannot be reached: Could not find a version of venusian",
        ),
        (PIP_BUILD, "Could not find a version of flit_core"),
        (
            DEBIAN,
            "this Python makes no environments; on Debian, Ubuntu: sudo apt install python3-venv",
        ),
        ("one\ntwo\n\n", "two"),
        ("", "exit status 7"),
    ],
    ids=["uv offline", "uv unsolved", "pip offline", "pip build", "debian", "last line", "silent"],
)
def test_the_cause_is_the_line_that_a_person_would_look_for(output: str, cause: str) -> None:
    assert bootstrap.find_cause(output, 7) == cause


def test_an_old_python_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))

    assert bootstrap.main() == 1
    assert capsys.readouterr().err == "This is Python 3.10: use 3.11 or newer.\n"


def make(project: SmallProject, *words: str, **environment: str) -> Finished:
    """Run make in the project."""
    return Child(["make", *words], project.folder, project.tools.environment | environment).finish()


def test_make_setup_sets_up_and_fails_if_that_does(project: SmallProject) -> None:
    assert make(project, "setup").status == 0
    assert make(project, "setup", FAKE_MIGRATE="no").status != 0


def test_make_test_sets_up_once_and_tests_even_without_a_database_server(
    project: SmallProject,
) -> None:
    first = make(project, "test", FAKE_MIGRATE="no server")
    calls = project.tools.calls()
    second = make(project, "test")

    assert first.status == second.status == 0
    assert "no server" in first.errors
    assert project.tools.calls()[len(calls) - 1 :] == ["python -m pytest"] * 2


def test_make_test_stops_without_packages(project: SmallProject) -> None:
    result = make(project, "test", FAKE_INSTALL="no", FAKE_OFFLINE="no")

    assert result.status != 0
    assert "python -m pytest" not in project.tools.calls()


def test_new_dependencies_are_installed_by_the_next_command(project: SmallProject) -> None:
    make(project, "test")
    later = (project.folder / ".venv" / "installed").stat().st_mtime + 1
    os.utime(project.folder / "constraints.txt", (later, later))

    failed = make(project, "test", FAKE_INSTALL="no", FAKE_OFFLINE="no")

    assert failed.status != 0
    assert "The step install failed" in failed.errors


def test_make_help_lists_every_target_of_the_readme(project: SmallProject) -> None:
    output = make(project).output

    for target in ("setup", "serve", "beat", "test", "sure", "format", "migrate"):
        assert f"make {target} " in output


def test_make_reports_that_no_python_is_new(project: SmallProject) -> None:
    result = make(project, "setup", "PYTHON=")

    assert result.status != 0
    assert "Python 3.11 or newer is needed" in result.errors
