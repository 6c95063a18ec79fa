"""The engine in five applications that know nothing of it, included as docs/inclusion.md says.

Each of `hosts/` has the shape of an application that many have; its own tests pass with it too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import TEMPLATE, Finished, make_config
from test_project import Project, server_url, user_environment
from test_rendering import readme_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.install, pytest.mark.slow]

GUIDE = (TEMPLATE / "docs" / "inclusion.md").read_text()
HOSTS = TEMPLATE / "tests" / "hosts"
# A page of each, what it answers, and the driver that it has for PostgreSQL.
PAGES = {
    "starter": ("/", 200, "starter: 0 models", "psycopg[binary]"),
    "wiki": ("/FrontPage", 303, "See Other", "psycopg2-binary"),
    "blog": ("/", 200, "blog: [], 1", "psycopg[binary]"),
    "service": ("/values/one", 200, '{"value": null}', "psycopg[binary]"),
    "api": ("/things?limit=1", 200, '["thing"]', "psycopg[binary]"),
}
OWN_TESTS = (".venv/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")


class Host(Project):
    """An application of `hosts/` in an environment of its own."""

    @property
    def name(self) -> str:
        """Its name, which is that of its package."""
        return self.folder.name

    @property
    def package(self) -> Path:
        """The folder of its package."""
        return self.folder / self.name

    def blocks(self, title: str) -> list[str]:
        """Give the blocks of a section of the guide, for this package."""
        text = GUIDE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        return [block.replace("starter", self.name) for block in readme_blocks(text)]

    def change(self, name: str, pattern: str, replacement: str) -> None:
        """Change a file in one place."""
        file = self.folder / name
        text, count = re.subn(pattern, lambda _match: replacement, file.read_text(), count=1)
        assert count == 1, f"{pattern} is not in {name}"
        file.write_text(text)


def install(host: Host, *packages: str) -> None:
    """Install packages into its environment."""
    host.done("uv", "pip", "install", "--quiet", "--python", ".venv/bin/python", *packages)


def include(host: Host) -> None:
    """Do what the guide says, section by section."""
    (copying,) = host.blocks("The folder")
    ours = f"{sys.executable} -m cookiecutter {TEMPLATE} --config-file {make_config(host.folder)}"
    assert "uvx cookiecutter gh:org/heartbeat" in copying
    host.paste([copying.replace("uvx cookiecutter gh:org/heartbeat", ours)])

    dependencies, installing = host.blocks("Dependencies")
    listed, _, tables = dependencies.partition("]\n")
    host.change("pyproject.toml", r"dependencies = \[\n", listed)
    host.change("pyproject.toml", r"\Z", tables)
    assert installing == "pip install -e .\n"
    install(host, "-e", ".", PAGES[host.name][3])

    including, flow = host.blocks("One include")
    (line,) = [line.strip() for line in including.splitlines() if "include(" in line]
    main = f"{host.name}/__init__.py"
    text = (host.folder / main).read_text()
    (made, space) = re.findall(r"( *.*Configurator\(settings=settings\).*\n)( *)", text)[0]
    # Where the application scans some modules only, that of the flows is another.
    scan = "" if re.search(r'scan\((".")?\)', text) else f'{space}config.scan(".flows")\n'
    host.change(main, re.escape(made), f"{made}{space}{line}\n{scan}")
    (host.package / "flows.py").write_text(flow)

    settings, server = host.blocks("Settings")
    host.change("development.ini", r"sqlalchemy\.url = .*\n", f"sqlalchemy.url = URL\n{settings}")
    host.change("development.ini", r"\[server:main\]\n(.+\n)*", server)
    own_url = r"sqlalchemy\.url = sqlite.*"
    if re.search(own_url, (host.folder / "development.ini").read_text()):
        host.change("development.ini", own_url, "sqlalchemy.url = URL")

    importing, argument = host.blocks("Migrations")
    (environment,) = host.package.glob("*/env.py")
    name = str(environment.relative_to(host.folder))
    host.change(name, "from alembic import context\n", f"from alembic import context\n{importing}")
    metadata = "target_metadata=target_metadata,\n"
    host.change(name, metadata, f"{metadata}        {argument}")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(f"host {name}")) for name in PAGES],
)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """Each application, with the engine in it."""
    folder = tmp_path_factory.mktemp("hosts")
    environment = user_environment(folder)
    shutil.copytree(HOSTS / request.param, folder / request.param)
    path = os.pathsep.join([f"{folder / request.param}/.venv/bin", environment["PATH"]])
    host = Host(folder / request.param, environment | {"PATH": path}, Finished(0, "", ""))
    host.done("uv", "venv", "--quiet", "--python", sys.executable, ".venv")
    install(host, "-e", ".", "pytest", "webtest")
    host.done(*OWN_TESTS)
    include(host)
    return host


@pytest.fixture(params=["sqlite", "postgresql"])
def on_database(request: pytest.FixtureRequest, host: Host, tmp_path: Path) -> Iterator[Host]:
    """The application on a database that does not exist yet."""
    ini = host.folder / "development.ini"
    before = ini.read_text()
    url = f"sqlite:///{tmp_path}/host.sqlite"
    if request.param == "postgresql":
        server, name = server_url("postgresql"), f"heartbeat_host_{uuid.uuid4().hex[:8]}"
        if PAGES[host.name][3].startswith("psycopg2"):
            server = server.replace("+psycopg:", "+psycopg2:")
        url = re.sub("/[^/]*$", f"/{name}", server)
    ini.write_text(before.replace("URL", url.replace("%", "%%")))
    yield host
    ini.write_text(before)
    shutil.rmtree(host.folder / "var", ignore_errors=True)
    if request.param == "postgresql":
        host.sql(server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def test_every_block_of_the_guide_is_in_a_section_that_is_followed() -> None:
    titles = re.findall(r"^## (.*)$", GUIDE, re.MULTILINE)
    followed = re.findall(r'host\.blocks\("(.*)"\)', Path(__file__).read_text())

    assert sorted(titles) == sorted(followed)
    assert readme_blocks(GUIDE.partition("\n## ")[0]) == []


def test_its_own_tests_pass(host: Host) -> None:
    host.done(*OWN_TESTS)


def test_it_migrates_autogenerates_and_beats(on_database: Host) -> None:
    host = on_database
    commands, last = host.blocks("Commands")
    serving, calling = filter(None, last.splitlines())
    path, status, words, _ = PAGES[host.name]

    said = host.paste(commands.splitlines())
    host.done("alembic", "-c", "development.ini", "revision", "--autogenerate", "-m", "nothing")
    (made,) = host.package.glob("*/versions/*_nothing.py")
    revision = made.read_text()
    made.unlink()

    assert serving == "pserve development.ini"
    with host.serve("development.ini") as server:
        page = server.call("GET", path)
        refused = server.call("POST", "/heartbeat")
        calling = calling.replace("localhost:6543", f"127.0.0.1:{server.port}")
        reply = json.loads(host.paste([calling.replace("curl ", "curl -fsS ")]))
        again = server.beat(host.token)
        unknown = server.call("GET", "/heartbeat/%ff")
    runs = json.loads(host.done("heartbeat", "runs", "--json"))

    assert "your tables are up to date" in said
    assert "wrong " not in said
    assert "greet" in said
    assert "op." not in revision.partition("def upgrade")[2]
    assert (page.status, words in page.text) == (status, True), page.text
    assert (refused.status, refused.kind) == (401, "application/problem+json")
    assert (reply["flows_succeeded"], again.status, unknown.status) == (1, 200, 401)
    assert [(run["name"], run["status"]) for run in runs] == [("greet", "success")]


def test_a_route_that_hides_the_engine_is_named_when_the_server_starts(on_database: Host) -> None:
    host = on_database
    main = host.package / "__init__.py"
    before = main.read_text()
    line = re.findall(r' *config\.include\("\.heartbeat"\)\n', before)[0]
    space = line.partition("config")[0]
    late = before.replace(line, f'{space}config.add_route("all", "/{{slug:.*}}")\n{line}')
    main.write_text(late)
    try:
        ended = host.run(".venv/bin/pserve", "development.ini")
    finally:
        main.write_text(before)

    (said,) = [each for each in ended.errors.splitlines() if each.startswith("Error: ")]
    assert ended.status == 1
    assert f"{main}, line " in said
    assert "the route 'all' (/{slug:.*}) hides the engine's /heartbeat" in said
