"""What every rendering promises, whatever the answers: nothing is installed here."""

from __future__ import annotations

import ast
import configparser
import io
import json
import re
import subprocess
import sys
import textwrap
import tokenize
import tomllib
from collections import Counter
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Any

import pytest
from conftest import PROJECT, TEMPLATE, make_config, render_into
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from pathlib import Path

DATABASES = ("sqlite", "postgresql", "mysql")
EXECUTORS = ("local", "celery")
SLUGS = ("x", "data_flows", "long_name_" * 4 + "long_names")

ENGINE = PROJECT / "src" / PROJECT.name / "heartbeat"
# By these an expression would learn which database it has: `engine.dialect.name` and synonyms.
DATABASE_OBJECTS = {"dialect", "engine", "bind", "driver"}
DATABASE_NAMES = {
    *("dialect_name", "drivername", "get_backend_name", "get_driver_name", "get_dialect"),
    *("is_mariadb", "is_mysql", "is_postgresql", "is_sqlite"),
}
# More than the contract allows: docs/decisions/0009 gives the reason.
REQUIRED_LINES = 7_074
PART_LINES = 350
CELERY_LINES = 250
PAGES_LINES = 1_656
OPERATE_LINES = 740
MODULE_LINES = 300
DIRECT_DEPENDENCIES = 15

# What can be deleted, each with its line in `heartbeat/__init__.py`, and the names of its tests.
OPTIONAL = {
    "throttle": "throttle",
    "toolbar": "toolbar",
    "pruning": "pruning",
    "timeouts": "timeouts",
    "conditions": "conditions*",
    "operate": "operations*|edit*|flows_command|run_command|runs_command|output|pages*|plan*",
    "history": "history*|runs_command|output|operations|operations_run_now|pages*",
    "pages": "pages*",
    "openapi": "openapi*",
    "health": "health|openapi*",
    "metrics": "metrics*|openapi*",
    "backfill": "backfill",
    "plan": "plan*",
    "checks": "check*",
    "tokens": "token_command",
    "alarms": "alarms*|pages_alarms",
    "webhooks": "webhooks*|alarms_webhook*",
    "scheduler": "scheduler",
    "new": "new*",
    "rehearse": "rehearse*",
    "testing": "run_flow",
    "celery": "celery*",
}

# Everything rendered that is the user's. The engine and its tests are compared with the template.
FILES = """
    .gitattributes .gitignore Makefile README.md constraints.txt
    development.ini production.ini pyproject.toml testing.ini
    docs/alarms.md docs/logs.md docs/proxies.md scripts/bootstrap.py scripts/serve.sh
    src/SLUG/__init__.py src/SLUG/views.py src/SLUG/templates/home.jinja2
    src/SLUG/static/home.css src/SLUG/static/icon.svg
    src/SLUG/csv_reader.py src/SLUG/flows/__init__.py src/SLUG/flows/import_csv.py
    src/SLUG/models/__init__.py src/SLUG/models/csv_import.py src/SLUG/models/meta.py
    src/SLUG/migrations/env.py src/SLUG/migrations/script.py.mako src/SLUG/migrations/types.py
    src/SLUG/migrations/versions/0001_csv_import.py
    tests/__init__.py tests/conftest.py tests/database.py tests/test_heartbeat.py tests/test_home.py
    tests/test_import_csv.py
"""

# Words that tell of an answer.
TRACES = {
    "sqlite": ("sqlite",),
    "postgresql": ("psycopg", "postgres"),
    "mysql": ("pymysql", "mysql", "mariadb", "cryptography", "cffi"),
    "celery": ("celery", "kombu", "redis", "amqp"),
}

# A project on SQLite that grows is told where to go.
ALWAYS_THERE = re.compile(r"for long writes use PostgreSQL")


@dataclass(frozen=True)
class Rendering:
    """A rendered project and the answers that made it."""

    folder: Path
    slug: str
    database: str
    executor: str = "local"

    @property
    def engine(self) -> Path:
        """The folder of the engine."""
        return self.folder / "src" / self.slug / "heartbeat"

    def text(self, name: str) -> str:
        """Give what a file holds."""
        return (self.folder / name).read_text(encoding="utf-8")

    def project_table(self) -> dict[str, Any]:
        """Give what pyproject.toml says of the project."""
        table: dict[str, Any] = tomllib.loads(self.text("pyproject.toml"))["project"]
        return table


@pytest.fixture(
    scope="session",
    params=[(database, slug) for slug in SLUGS for database in DATABASES],
    ids=lambda answers: f"{answers[0]}-{len(answers[1])}",
)
def rendering(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Rendering:
    """Each database with each slug."""
    database, slug = request.param
    return make_rendering(tmp_path_factory.mktemp("rendering"), slug, database)


@pytest.fixture(
    scope="session",
    params=[(database, executor) for executor in EXECUTORS for database in DATABASES],
    ids="-".join,
)
def of_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Rendering:
    """Each database with each executor, where the slug has no say."""
    return make_rendering(tmp_path_factory.mktemp("rendering"), "data_flows", *request.param)


def make_rendering(folder: Path, slug: str, database: str, executor: str = "local") -> Rendering:
    """Render the template."""
    answers = {"project_slug": slug, "database": database, "executor": executor}
    project = render_into(folder, make_config(folder), **answers)
    return Rendering(project, slug, database, executor)


def files_of(folder: Path) -> dict[str, bytes]:
    """Give every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def modules() -> dict[str, str]:
    """Give the engine's Python modules."""
    return {
        path.relative_to(ENGINE).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(ENGINE.rglob("*.py"))
    }


def unit_of(path: str) -> str:
    """Return the folder or the module of the engine's top that a path belongs to."""
    top = path.partition("/")[0]
    return "" if top == "__init__" else top


def imported_by(name: str, source: str) -> list[str]:
    """Return the paths in the engine that a module imports from, whatever else they name."""
    folder, paths = name.split("/")[:-1], []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder[: len(folder) - node.level + 1]
            module = node.module.split(".") if node.module else []
            paths += ["/".join([*base, *module, alias.name]) for alias in node.names]
    return paths


def count_code(source: str) -> int:
    """Count the lines that are neither blank, nor comment, nor docstring."""
    lines: set[int] = set()
    nothing = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in nothing:
            lines.update(range(token.start[0], token.end[0] + 1))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            lines.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def readme_blocks(text: str) -> list[str]:
    """Give the indented blocks of a README, as they are pasted."""
    blocks = re.findall(r"(?:^(?: {4}.*)\n(?:\n{1,2}(?= {4}))?)+", text, re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks]


def readme_code(text: str) -> list[list[str]]:
    """Give the indented blocks of a README, each as its lines that hold anything."""
    return [[line for line in block.splitlines() if line.strip()] for block in readme_blocks(text)]


def readme_commands(text: str) -> list[str]:
    """Give the commands of a README: in blocks and in the running text."""
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE))
    lines = [*(line for block in readme_code(text) for line in block), *spans]
    parts = (part for line in lines for part in line.partition(" #")[0].split(" && "))
    first = re.compile(r"(make [a-z]|\.venv/bin/|heartbeat [a-z]|alembic |rm |cd |HEARTBEAT_\w+=)")
    return [part.strip() for part in parts if first.match(part.strip())]


def make_targets(makefile: str) -> set[str]:
    """Give the targets that `make help` lists."""
    return set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))


def heartbeat_commands() -> set[str]:
    """Give the names of the commands of `heartbeat`."""
    found = set()
    for name, source in modules().items():
        if name.startswith(("cli/", "optional/")):
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.FunctionDef):
                    made = {ast.unparse(each).partition("(")[0] for each in node.decorator_list}
                    if made & {"click.command", "click.group", "command", "flow_command"}:
                        found.add(node.name)
    return found


def test_the_files_are_exactly_these(rendering: Rendering) -> None:
    expected = set(FILES.replace("SLUG", rendering.slug).split())
    expected |= {f"src/{rendering.slug}/heartbeat/{name}" for name in files_of(ENGINE)}

    found = set(files_of(rendering.folder))

    assert sorted(found) == sorted(expected)
    assert [name for name in found if "__pycache__" in name or name.endswith(".pyc")] == []


def template_words(files: dict[str, bytes]) -> list[str]:
    """Find what only the template may hold; pages have braces of their own, and f-strings two.

    So have the files for Prometheus and Grafana.
    """
    found = []
    own_braces = (".jinja2", ".mako", "/metrics/alerts.yml", "/metrics/dashboard.json")
    for name, content in files.items():
        if not name.endswith(own_braces):
            braces = r"\{[%#]" if name.endswith(".py") else r"\{[%#]|(?<!\$)\{\{"
            words = re.compile(rf"{braces}|cookiecutter", re.IGNORECASE)
            found += [f"{name}: {match[0]}" for match in words.finditer(content.decode())]
    return found


def test_nothing_of_the_template_is_left(rendering: Rendering) -> None:
    assert template_words(files_of(rendering.folder)) == []


def test_every_python_file_parses(rendering: Rendering) -> None:
    sources = {k: v for k, v in files_of(rendering.folder).items() if k.endswith(".py")}

    for name, content in sources.items():
        ast.parse(content, name, feature_version=(3, 11))

    assert len(sources) >= len(modules())


@pytest.mark.parametrize("command", ["format --check", "check"])
def test_the_linter_has_nothing_to_say(rendering: Rendering, command: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ruff", *command.split(), "--no-cache", "."],
        cwd=rendering.folder,
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stdout + result.stderr


def test_toml_and_ini_files_can_be_read(rendering: Rendering) -> None:
    names = {name for name in files_of(rendering.folder) if name.endswith((".toml", ".ini"))}
    for name in names - {"pyproject.toml"}:
        parser = configparser.ConfigParser({"here": str(rendering.folder)})
        parser.read_string(rendering.text(name))
        for section in {"app:main", "server:main", "alembic"} & set(parser):
            assert dict(parser[section]), "each % is a reference that resolves"
        assert parser["app:main"]["use"] == f"egg:{rendering.slug}"
        assert parser["alembic"]["script_location"] == f"{rendering.slug}:migrations"
    table = rendering.project_table()

    assert names == {"pyproject.toml", "development.ini", "production.ini", "testing.ini"}
    assert table["name"] == rendering.slug
    assert tomllib.loads(rendering.text("pyproject.toml"))["tool"]["cruft"] == {
        "skip": [".venv", "var"]
    }


def test_the_engine_is_the_templates_byte_for_byte(rendering: Rendering) -> None:
    assert files_of(rendering.engine) == files_of(ENGINE)


def test_the_engine_imports_itself_by_relative_names_alone() -> None:
    outside = []
    for name, source in modules().items():
        depth = name.count("/") + 1
        for node in ast.walk(ast.parse(source)):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            elif isinstance(node, ast.ImportFrom) and node.level > depth:
                outside.append(f"{name} leaves the package")
            own = {"heartbeat", "data_flows", "tests", PROJECT.name}
            outside += [f"{name} names {n}" for n in names if n.partition(".")[0] in own]

    assert outside == []


def test_the_engine_holds_no_jinja() -> None:
    assert template_words(files_of(ENGINE)) == []


def test_no_module_of_the_engine_is_longer_than_a_sitting() -> None:
    lengths = {name: len(source.splitlines()) for name, source in modules().items()}

    assert {name: lines for name, lines in lengths.items() if lines > MODULE_LINES} == {}


def test_the_folders_of_the_engine_import_each_other_in_one_direction() -> None:
    imports: dict[str, set[str]] = {}
    for name, source in modules().items():
        if name.startswith("migrations/versions/"):
            continue
        unit = unit_of(name.removesuffix(".py"))
        imported = {unit_of(path) for path in imported_by(name, source)}
        imports.setdefault(unit, set()).update(imported - {unit, ""})

    TopologicalSorter(imports).prepare()  # a CycleError names the ring


def test_an_import_is_seen_wherever_it_points() -> None:
    source = "from . import a\nfrom ..db import engines as e\nif x:\n    from ..core import Y\n"

    assert imported_by("runs/beat.py", source) == ["runs/a", "db/engines", "core/Y"]
    assert imported_by("runs/__init__.py", "from .due import x") == ["runs/due/x"]
    assert imported_by("core.py", "from .db.limits import x\nimport os") == ["db/limits/x"]
    assert [unit_of(name) for name in ("db/engines", "core", "__init__")] == ["db", "core", ""]


def test_no_python_file_has_statements_of_jinja() -> None:
    files = [*TEMPLATE.glob("hooks/*.py"), *TEMPLATE.glob("{{*/**/*.py*")]
    statement = "{" + "%"  # not written out, so that this file has none either

    assert len(files) > 100
    assert [file for file in files if statement in file.read_text(encoding="utf-8")] == []


def test_the_engine_keeps_its_budget() -> None:
    lines = {name: count_code(source) for name, source in modules().items()}
    sizes = Counter[str]()
    for name, count in lines.items():
        if name.startswith("migrations/versions/"):
            continue
        folder, _, part = name.partition("/")
        is_optional = folder == "optional" and part != "__init__.py"
        sizes[part.partition("/")[0].removesuffix(".py") if is_optional else ""] += count
    required, operate, pages = sizes.pop(""), sizes.pop("operate"), sizes.pop("pages")
    listed = json.dumps(lines, indent=1)
    figures = f"required {required}, operate {operate}, pages {pages}, {sizes}: {listed}"

    assert required <= REQUIRED_LINES, figures
    assert operate <= OPERATE_LINES, figures
    assert pages <= PAGES_LINES, figures
    assert sizes["celery"] <= CELERY_LINES, figures
    assert max(sizes.values()) <= PART_LINES, figures
    assert sizes.keys() | {"operate", "pages"} == OPTIONAL.keys()


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ('"""Two\nlines."""\n\n# comment\nx = 1  # more\n', 1),
        ('def f():\n    """Doc."""\n    return """a\n\nb"""\n', 4),
        ("x = (\n    1,\n\n    # why\n    2,\n)\n", 4),
    ],
)
def test_lines_of_code_are_counted(source: str, lines: int) -> None:
    assert count_code(source) == lines


def test_direct_dependencies_are_few_and_pinned_within_their_bounds(of_database: Rendering) -> None:
    table = of_database.project_table()
    direct = [Requirement(text) for text in table["dependencies"]]
    extras = table["optional-dependencies"].values()
    wanted = direct + [Requirement(text) for texts in extras for text in texts]
    pins: dict[str, list[str]] = {}
    for line in of_database.text("constraints.txt").splitlines():
        if line.strip() and not line.startswith("#"):
            pin = Requirement(line)
            (exact,) = pin.specifier
            assert exact.operator == "=="
            pins.setdefault(canonicalize_name(pin.name), []).append(exact.version)

    assert len(direct) <= DIRECT_DEPENDENCIES
    for requirement in wanted:
        versions = pins.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier, f"{requirement.name} has no bound"
        assert [v for v in versions if v not in requirement.specifier] == [], str(requirement)


def test_what_was_not_chosen_leaves_no_trace(of_database: Rendering) -> None:
    others = {*TRACES} - {of_database.database, of_database.executor}
    words = re.compile("|".join(word for name in others for word in TRACES[name]), re.IGNORECASE)
    found = []
    for name, content in files_of(of_database.folder).items():
        # Python, with its templates, and the list of the engine's files are the same whatever the
        # answers.
        if not name.endswith((".py", "new/templates/revision.txt", "heartbeat/MANIFEST")):
            text = "\n".join(
                line for line in content.decode().splitlines() if not ALWAYS_THERE.search(line)
            )
            found += [f"{name}: {match[0]}" for match in words.finditer(text)]

    assert found == []


def test_tables_name_their_character_set_where_the_database_needs_it(
    of_database: Rendering,
) -> None:
    named = {
        name
        for name, content in files_of(of_database.folder / "src" / "data_flows").items()
        if b"utf8mb4" in content and not name.startswith("heartbeat/")
    }

    tables = {"models/__init__.py", "migrations/versions/0001_csv_import.py"}
    assert named == (tables if of_database.database == "mysql" else set())


def test_the_changelog_has_this_version() -> None:
    version = (ENGINE / "VERSION").read_text().strip()
    parts = re.findall(r"^## \[?([^\]\s]+)", (TEMPLATE / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev0)?", version)
    # Just before a release, its section is complete and the version still has its suffix.
    release = version.removesuffix(".dev0")
    assert parts[0] in ({release} if version == release else {release, "Unreleased"})


@pytest.mark.parametrize(
    ("readme", "commands"),
    [(TEMPLATE, ["make demo", "make test"]), (None, ["make serve", "make test"])],
    ids=["template", "project"],
)
def test_the_readme_begins_with_its_two_commands(
    of_database: Rendering, readme: Path | None, commands: list[str]
) -> None:
    text = ((readme or of_database.folder) / "README.md").read_text()
    first = readme_code(text)[0]

    assert [line.partition("#")[0].strip() for line in first] == commands
    assert all("#" in line for line in first)
    assert not re.search(r"`[^`]+`|\n## ", text.partition(f"    {commands[0]}")[0])


def test_what_the_readme_names_exists(of_database: Rendering) -> None:
    text = of_database.text("README.md")
    table = of_database.project_table()
    scripts = {*table["scripts"], "pserve", "alembic", "pip", "python", of_database.executor}
    place = of_database.folder
    commands = readme_commands(text)
    for command in commands:
        words = command.split()
        if words[0] == "cd":
            place /= words[1]
            assert place.is_dir(), command
        elif words[0] == "rm":
            assert [name for name in words[1:] if not (place / name).is_file()] == [], command
        elif words[0] == "make":
            assert words[1] in make_targets(of_database.text("Makefile")), command
        else:
            check_program(words, scripts)
            named = [word for word in words if word.endswith((".ini", ".txt"))]
            assert [name for name in named if not (of_database.folder / name).is_file()] == []

    assert place.resolve() == of_database.folder.resolve(), "each cd is undone"
    assert {"make serve", "make test", "make migrate", "make setup"} <= set(commands)


def check_program(words: list[str], scripts: set[str]) -> None:
    """See that a program is one of the project's, and what `heartbeat` is told is a command."""
    program = words[0].removeprefix(".venv/bin/")
    assert program in scripts, words
    if program == "heartbeat":
        assert words[1] in heartbeat_commands(), words


def test_what_the_templates_readme_names_exists() -> None:
    text = (TEMPLATE / "README.md").read_text()
    commands = readme_commands(text)
    ours = make_targets((TEMPLATE / "Makefile").read_text())
    in_project = make_targets((PROJECT / "Makefile").read_text())
    for command in commands:
        words = command.split()
        if words[0] == "make":
            assert words[1] in ours | in_project, command
        elif words[0] == "heartbeat":
            assert words[1] in heartbeat_commands(), command
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", text)

    assert {"make demo", "make test", "make sure", "heartbeat migrate"} <= set(commands)
    assert linked
    assert [name for name in linked if not (TEMPLATE / name).exists()] == []


def reads_the_database(node: ast.AST) -> bool:
    """Return whether an expression asks which database or driver it has."""
    if not isinstance(node, ast.Attribute):
        return False
    owner = ast.unparse(node.value).rpartition(".")[2]
    return node.attr in DATABASE_NAMES or (node.attr == "name" and owner in DATABASE_OBJECTS)


def test_differences_between_databases_are_in_one_folder_of_the_engine() -> None:
    found = []
    for name, source in modules().items():
        # A revision must not change with the engine's code, so it asks by itself.
        if not name.startswith(("db/", "migrations/versions/")):
            nodes = filter(reads_the_database, ast.walk(ast.parse(source)))
            found += [f"{name}: {ast.unparse(node)}" for node in nodes]
            found += [f"{name}: {each}" for each in re.findall(r"sqlalchemy\.dialects", source)]

    assert found == []
