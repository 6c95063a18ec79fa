"""`heartbeat new`: what it refuses, in one line each, and that it then leaves nothing behind.

What it writes is tested in a project of its own, by the template's tests.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import data_flows
from data_flows.heartbeat.cli import main
from data_flows.heartbeat.errors import DataFlowError
from data_flows.heartbeat.optional.new.project import write_files

from ..conftest import INI_FILE
from .conftest import Command

PACKAGE = Path(data_flows.__file__).parent
PROJECT = Path(INI_FILE).parent


def new(*arguments: str) -> Result:
    """Call `heartbeat new` in the project."""
    return CliRunner().invoke(main, ["new", *arguments, "-c", INI_FILE])


def files() -> set[Path]:
    """Return the files of the project's package and tests, except those of Python itself."""
    return {
        path
        for folder in (PACKAGE, PROJECT / "tests")
        for path in folder.rglob("*")
        if path.suffix != ".pyc" and path.name != "__pycache__"
    }


@pytest.fixture(autouse=True)
def _database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)


@pytest.fixture(autouse=True)
def _nothing_is_written() -> Iterator[None]:
    before = files()
    yield
    assert files() == before


def error_of(result: Result) -> str:
    """Return the one line of a command that has failed."""
    [line] = result.stderr.splitlines()
    assert result.exit_code == 1
    assert result.stdout == ""
    return line.removeprefix("Error: ")


@pytest.mark.parametrize(
    ("name", "reason", "better"),
    [
        ("import-orders", "lower-case letters, digits and underscores", "import_orders"),
        ("Import", "lower-case letters, digits and underscores", "import_data"),
        ("9lives", "lower-case letters, digits and underscores", "flow_9lives"),
        ("_private", "lower-case letters, digits and underscores", "private"),
        ("../up", "lower-case letters, digits and underscores", "up"),
        ("käuzchen", "lower-case letters, digits and underscores", "k_uzchen"),
        ("", "lower-case letters, digits and underscores", "flow_data"),
        ("a\nb", "lower-case letters, digits and underscores", "a_b"),
        ("class", "has a meaning in Python", "class_data"),
        ("print", "has a meaning in Python", "print_data"),
        ("flow", "the module of a flow", "flow_data"),
        ("run", "the module of a flow or its test", "run_data"),
        ("run_flow", "the module of a flow or its test", "run_flow_data"),
        ("dbsession", "the module of a flow or its test", "dbsession_data"),
        ("test_orders", "pytest would call the flow", "flow_test_orders"),
        ("setup_module", "pytest would call the flow", "flow_setup_module"),
        ("pytestmark", "pytest would call the flow, or read it", "flow_pytestmark"),
        ("l", "it looks like 1", "l_data"),
        ("Tester", "lower-case letters, digits and underscores", "flow_tester"),
        ("json", "a module of Python or of an installed package", "json_data"),
        ("sqlalchemy", "a module of Python or of an installed package", "sqlalchemy_data"),
        ("data_flows", "a module of Python or of an installed package", "data_flows_data"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_with_another(
    name: str, reason: str, better: str
) -> None:
    line = error_of(new(name, "--every", "5m"))

    assert line.startswith(f"{name!r} cannot be the name of a new flow: ")
    assert reason in line
    assert line.endswith(f"for example {better}")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ((), "schedule: give --every 5m, or --cron"),
        (("--every", "5m", "--cron", "@daily"), "schedule: give --every 5m, or --cron"),
        (("--every", "0"), "every: '0' is not a valid interval"),
        (("--every", "abc"), "every: 'abc' is not a valid interval"),
        (("--cron", "nonsense"), "cron: 'nonsense' is not a valid cron expression"),
        (("--cron", "@daily", "--timezone", "Mars"), "timezone: 'Mars' is not an IANA time zone"),
    ],
)
def test_a_schedule_that_cannot_be_one_is_refused(options: tuple[str, ...], problem: str) -> None:
    assert error_of(new("import_birds", *options)).startswith(problem)


def test_a_name_that_is_too_long_is_refused() -> None:
    assert "too long for lines of 100" in error_of(new("b" * 91, "--every", "5m", "--table"))


def test_the_name_of_a_declared_flow_is_refused() -> None:
    line = error_of(new("import_csv", "--every", "5m"))

    assert line == "there is a flow 'import_csv' already: choose another name"


def test_the_name_of_a_flow_that_was_added_is_refused() -> None:
    added = ["add", "birds_eu", "--handler", "import_csv", "--every", "5m", "-c", INI_FILE]
    assert CliRunner().invoke(main, added).exit_code == 0

    line = error_of(new("birds_eu", "--every", "5m"))

    assert line == "there is a flow 'birds_eu' already: choose another name"


def test_a_file_that_exists_is_never_overwritten() -> None:
    before = (PROJECT / "tests" / "test_home.py").read_text()

    line = error_of(new("home", "--every", "5m"))

    assert line == f"{PROJECT / 'tests' / 'test_home.py'} exists already: choose another name"
    assert (PROJECT / "tests" / "test_home.py").read_text() == before


def test_an_application_that_does_not_scan_its_flows_is_reported(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "data_flows.flows", raising=False)

    line = error_of(command("new", "import_birds", "--every", "5m"))

    assert "does not scan data_flows.flows: " in line
    assert 'call config.scan("data_flows.flows") in main(), after config.include(' in line


def test_an_ini_file_without_tests_beside_it_is_reported(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "data_flows.flows", data_flows)

    line = error_of(command("new", "import_birds", "--every", "5m"))

    assert line.startswith(f"there is no {tmp_path}/tests/conftest.py, which the flow's test needs")


def test_files_are_written_all_or_none(tmp_path: Path) -> None:
    first, second = tmp_path / "first.py", tmp_path / "missing" / "second.py"

    with pytest.raises(DataFlowError, match="nothing was written: "):
        write_files({first: "one", second: "two"})
    assert [*tmp_path.iterdir()] == []

    second.parent.mkdir()
    write_files({first: "one", second: "two"})
    with pytest.raises(DataFlowError, match="exists already"):
        write_files({tmp_path / "third.py": "three", first: "four"})

    assert {path.name: path.read_text() for path in tmp_path.rglob("*.py")} == {
        "first.py": "one",
        "second.py": "two",
    }


def test_a_package_of_the_same_name_is_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "birds").mkdir()

    with pytest.raises(DataFlowError, match="exists already"):
        write_files({tmp_path / "birds.py": ""})
