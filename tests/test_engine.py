"""The engine passes its tests, in a rendered project and on each database; see `tests/engine`."""

from __future__ import annotations

import pytest
from conftest import TEMPLATE
from test_project import DRIVERS, Project, make_project, server_url, user_environment

pytestmark = pytest.mark.install

FUNCTIONAL = sorted(
    f"tests/engine/functional/{file.name}"
    for file in (TEMPLATE / "tests" / "engine" / "functional").glob("test_*.py")
)
# Parts of similar length, which workers take one by one.
PARTS = {
    "unit": ["tests/engine/unit", "tests/engine/migrations"],
    "concurrency": ["tests/engine/concurrency"],
    "properties": ["tests/engine/properties"],
    "functional 1": FUNCTIONAL[::3],
    "functional 2": FUNCTIONAL[1::3],
    "functional 3": FUNCTIONAL[2::3],
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Make a project with the engine's tests, once for each worker."""
    folder = tmp_path_factory.mktemp("engine")
    made = make_project(folder, user_environment(folder))
    made.add_engine_tests()
    return made


@pytest.mark.parametrize("part", PARTS)
def test_its_tests_pass_and_none_is_skipped(project: Project, part: str) -> None:
    project.run_engine_tests(*PARTS[part])


@pytest.mark.servers
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", DRIVERS)
def test_its_tests_pass_on_that_server_and_none_is_skipped(
    project: Project, kind: str, part: str
) -> None:
    environment = {"TEST_DATABASE_URL": server_url(kind)}
    project.install(DRIVERS[kind])
    project.run_engine_tests(*PARTS[part], **environment)


@pytest.mark.slow
def test_its_slow_tests_pass(project: Project) -> None:
    project.run_engine_tests(marked="slow")


def test_its_tests_are_typed_and_formatted(project: Project) -> None:
    project.done(".venv/bin/ruff", "format", "--check", "tests")
    project.done(".venv/bin/ruff", "check", "tests")
    project.done(".venv/bin/mypy")
