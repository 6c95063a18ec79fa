"""Before rendering: refuses answers and places that cannot work, one line for each fault.

Plain Python before rendering, so that it is linted and imported by tests: Jinja stands only inside
a string. It starts on every Python that cookiecutter knows, to be able to say "too old".
"""

from __future__ import annotations

import json
import keyword
import re
import shutil
import sys
import unicodedata
from pathlib import Path

# JSON never holds three bare quotes in a row, and a raw string keeps its backslashes:
# no answer can break out of this string.
ANSWERS = r"""{{ cookiecutter | tojson }}"""

OLDEST_PYTHON = (3, 11)

# PostgreSQL cuts the name of a database at 63 bytes, and a test database adds some to the slug.
LONGEST_SLUG = 50

# Pythons that are too old do not know this list, and must still reach the message.
STANDARD_MODULES: frozenset[str] = getattr(sys, "stdlib_module_names", frozenset())

PACKAGE_NAME = re.compile(r"[a-z][a-z0-9_]*")

# The rendered project imports these: a package of its own of that name would hide them.
IMPORTED_MODULES = frozenset(
    """
    alembic amqp annotated_types ast_serialize async_timeout billiard bs4 celery click
    click_didyoumean click_plugins click_repl coverage cronsim dateutil dotenv greenlet heartbeat
    hupper hypothesis idna iniconfig jinja2 kombu librt mako markdown_it markupsafe mdurl mypy
    mypy_extensions mypyc packaging paste pathspec pip pkg_resources plaster plaster_pastedeploy
    pluggy prompt_toolkit psycopg psycopg_binary py pydantic pydantic_core pydantic_settings
    pygments pymysql pyramid pyramid_debugtoolbar pyramid_jinja2 pyramid_mako pyramid_retry
    pyramid_tm pytest pytest_cov pythonjsonlogger redis rich ruff setuptools six soupsieve
    sqlalchemy tests transaction translationstring typing_extensions typing_inspection tzdata
    tzlocal uv venusian vine waitress wcwidth webob webtest zope
    """.split()
)

# Both servers keep databases of their own under these names, and the slug names the project's.
SERVER_DATABASES = frozenset(
    """
    information_schema mysql performance_schema postgres sys template0 template1
    """.split()
)

# cookiecutter renders answers: those of the command line before any hook, and all when it updates.
TEMPLATE_MARK = re.compile(r"\{[%#{]")

# What rendering writes, with some to spare, and what the set-up installs; in MB.
MB = 1_000_000
PROJECT_MB = 8
PACKAGES_MB = 200

# What ends a line or a TOML string, or cannot be written as UTF-8.
UNSAFE_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


def main() -> None:
    """Check everything, and leave with 1 on any fault: cookiecutter then removes the folder."""
    answers = json.loads(ANSWERS)
    faults = find_faults(answers, Path.cwd(), sys.version_info[:2])
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        sys.exit(1)


def find_faults(answers: dict[str, str], folder: Path, python: tuple[int, int]) -> list[str]:
    """Give one line for each thing that cannot work, with the fix."""
    faults = [
        fault_of_slug(answers["project_slug"]),
        fault_of_text("project_name", answers["project_name"]),
        fault_of_text("description", answers["description"]),
        fault_of_folder(folder),
        fault_of_space(folder),
        fault_of_python(python),
    ]
    return [fault for fault in faults if fault]


def fault_of_slug(slug: str) -> str:
    """Say why the slug cannot name a package that lives beside its dependencies."""
    if not PACKAGE_NAME.fullmatch(slug):
        reason = "is not a package name: use small letters a-z, digits and _, a letter first"
    elif len(slug) > LONGEST_SLUG:
        reason = f"has {len(slug)} characters: use at most {LONGEST_SLUG}"
    elif keyword.iskeyword(slug):
        reason = "is a Python keyword: choose another, such as my_flows"
    elif slug in STANDARD_MODULES:
        reason = "is a module of Python's standard library: choose another, such as my_flows"
    elif slug in IMPORTED_MODULES:
        reason = "would hide a module that the project imports: choose another, such as my_flows"
    elif slug in SERVER_DATABASES:
        reason = "names a database of the server's own: choose another, such as my_flows"
    else:
        return ""
    return f"project_slug {show(slug)} {reason}."


def fault_of_text(name: str, text: str) -> str:
    """Say why a text for people cannot stand in pyproject.toml."""
    if not text.strip():
        return f"{name} is empty: say it in a few words."
    if '"' in text or "\\" in text:
        return f"{name} {show(text)} holds a double quote or a backslash: leave those out."
    if mark := TEMPLATE_MARK.search(text):
        return (
            f"{name} {show(text)} holds {mark[0]}, which cookiecutter would render: leave it out."
        )
    if any(unicodedata.category(character) in UNSAFE_CATEGORIES for character in text):
        return f"{name} {show(text)} holds a line break or a control character: leave those out."
    return ""


def fault_of_folder(folder: Path) -> str:
    """Say why the .ini files could not name this folder."""
    if "%" in str(folder):
        return f"The path {show(str(folder))} holds a %, which .ini files cannot: render elsewhere."
    return ""


def fault_of_space(folder: Path) -> str:
    """Say that the disk is full: a project in part would be in the way of the next attempt."""
    try:
        free = shutil.disk_usage(folder).free / MB
    except OSError:
        return ""
    if free < PROJECT_MB:
        return (
            f"The disk of {show(str(folder))} has {free:.1f} MB left, but the project takes "
            f"{PROJECT_MB} MB and its packages {PACKAGES_MB} MB: free some, or render elsewhere."
        )
    return ""


def fault_of_python(python: tuple[int, int]) -> str:
    """Say that the project needs a newer Python than cookiecutter runs on."""
    if python < OLDEST_PYTHON:
        found, needed = (".".join(map(str, version)) for version in (python, OLDEST_PYTHON))
        return f"Python {found} is too old: run cookiecutter with Python {needed} or newer."
    return ""


def show(text: str) -> str:
    """Quote an answer on one line that any terminal can print."""
    return ascii(text)


if __name__ == "__main__":
    main()
