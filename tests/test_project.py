"""What a rendered project promises: real installs, real servers on real sockets, real databases."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import uuid
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from conftest import TEMPLATE, Child, Finished, cookiecutter_command, link_commands, make_config
from test_rendering import OPTIONAL, readme_code

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.install
PYTEST = (".venv/bin/python", "-m", "pytest", "-q", "-ra")
# What the engine's tests need and a project does not.
ENGINE_TESTS_NEED = (
    *("hypothesis", "pyramid_retry>=2.1.1"),
    *("openapi-spec-validator>=0.8", "schemathesis>=4.20"),
)
# By server: the driver, for a project that was rendered for another database.
DRIVERS = {"postgresql": "psycopg[binary]>=3.3", "mysql": "pymysql>=1.1"}
# By optional part: the parts that import from it, and do without where it is not wired.
NEEDED_BY = {
    "operate": ("pages",),
    "history": ("pages",),
    "rehearse": ("pages",),
    "alarms": ("webhooks",),
}
SHARES = pytest.mark.xdist_group("shared")

# Where each system has make, git, curl and the like.
SYSTEM_FOLDERS = ("/usr/local/bin", "/usr/bin", "/bin")

# How long the longest of all may take: a part of the engine's tests, on a busy machine.
PATIENCE_SECONDS = 2_400.0

SERVING = re.compile(r"(?:Serving on|Listening at:) http://127\.0\.0\.1:(\d+)")
AIRPORTS = 28_000

# Run by the project's own Python: the template's has no SQLAlchemy.
RUN_SQL = """
import sys
from sqlalchemy import create_engine
engine = create_engine(sys.argv[1], isolation_level="AUTOCOMMIT")
with engine.connect().execution_options(no_parameters=True) as connection:
    for statement in sys.argv[2:]:
        connection.exec_driver_sql(statement)
"""

# A table with a text and arguments of its own, and what stores into it.
BIRD = '''"""Birds."""

from sqlalchemy import String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from .meta import Base


class Bird(Base):
    """A bird."""

    __tablename__ = "birds"
    __table_args__ = (UniqueConstraint("name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
'''
STORE_BIRD = """
import os
from data_flows.models import get_engine
from data_flows.models.bird import Bird
from sqlalchemy import select
from sqlalchemy.orm import Session
with Session(get_engine({})) as session:
    session.add(Bird(name="Käuzchen 🦉"))
    session.commit()
    print(session.scalars(select(Bird.name)).one())
"""


@dataclass(frozen=True)
class Reply:
    """What the server answered."""

    status: int
    kind: str
    text: str

    def json(self) -> Any:  # noqa: ANN401 - JSON may be anything
        """Read it."""
        return json.loads(self.text)


class Server:
    """A command that serves, in a process group of its own, and all that it says."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        """Start it, and wait until it listens."""
        self.lines: list[str] = []
        self.port = 0
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._heard = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        if not self._heard.wait(PATIENCE_SECONDS) or not self.port:
            self.stop()
            pytest.fail(f"{command} does not serve:\n{self.said}")

    @property
    def said(self) -> str:
        """All that it said."""
        return "\n".join(self.lines)

    def call(self, method: str, path: str, **headers: str) -> Reply:
        """Send a request."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)) as line:
            line.request(method, path, headers=headers)
            answer = line.getresponse()
            kind = answer.getheader("Content-Type", "")
            return Reply(answer.status, kind, answer.read().decode())

    def beat(self, token: str) -> Reply:
        """Call the heartbeat as a scheduler does."""
        return self.call("POST", "/heartbeat", Authorization=f"Bearer {token}")

    def stop(self) -> None:
        """End the whole group, and hear it out."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(PATIENCE_SECONDS)
        self._listener.join(PATIENCE_SECONDS)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line.rstrip("\n"))
                if match := SERVING.search(line):
                    self.port = int(match[1])
                    self._heard.set()
        self._heard.set()


@dataclass(frozen=True)
class Project:
    """A project that one command has rendered and set up."""

    folder: Path
    environment: dict[str, str]
    rendered: Finished

    @property
    def token(self) -> str:
        """The scheduler's secret."""
        return (self.folder / "var" / "beat.token").read_text().strip()

    @property
    def package(self) -> Path:
        """The folder of its Python package."""
        return self.folder / "src" / "data_flows"

    def run(self, *words: str, **environment: str) -> Finished:
        """Run a command in the project's folder."""
        child = Child(list(words), self.folder, self.environment | environment)
        return child.finish(PATIENCE_SECONDS)

    def done(self, *words: str, **environment: str) -> str:
        """Run a command that must end well, and give its output."""
        result = self.run(*words, **environment)
        assert result.status == 0, result.everything
        return result.output

    def paste(self, lines: list[str], **environment: str) -> str:
        """Run lines in a shell, as a person pastes them."""
        return self.done("sh", "-e", "-c", "\n".join(lines), **environment)

    def heartbeat(self, *words: str, **environment: str) -> Finished:
        """Run the command `heartbeat`."""
        return self.run(".venv/bin/heartbeat", *words, **environment)

    def runs(self, **environment: str) -> list[dict[str, Any]]:
        """Give the history, newest first."""
        found: list[dict[str, Any]] = json.loads(
            self.done(".venv/bin/heartbeat", "runs", "--json", **environment)
        )
        return found

    def run_tests(self, **environment: str) -> str:
        """Run the project's own tests, none of which may be skipped; give pytest's last line."""
        output = self.done(*PYTEST, **environment)
        return all_ran(output)

    def add_engine_tests(self) -> Path:
        """Copy the engine's tests beside the project's own; return their folder."""
        folder = self.folder / "tests" / "engine"
        if not folder.exists():
            hidden = shutil.ignore_patterns("__pycache__")
            shutil.copytree(TEMPLATE / "tests" / "engine", folder, ignore=hidden)
            self.install(*ENGINE_TESTS_NEED)
        return folder

    def install(self, *packages: str) -> None:
        """Install packages into the project's environment."""
        self.done("uv", "pip", "install", "--quiet", "-p", ".venv/bin/python", *packages)

    def run_engine_tests(
        self, *arguments: str, marked: str = "not slow", **environment: str
    ) -> str:
        """Run the engine's tests, none of which may be skipped; give pytest's last line."""
        self.add_engine_tests()
        output = self.done(*PYTEST, "-m", marked, *arguments or ["tests/engine"], **environment)
        return all_ran(output)

    def section(self, title: str) -> str:
        """Give a section of the README."""
        text = (self.folder / "README.md").read_text()
        return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]

    @contextmanager
    def serve(self, ini: str, change: str = "", **environment: str) -> Iterator[Server]:
        """Serve a copy of an .ini file that differs in its port, and in a line to be added."""
        copy = self.folder / f"copy_of_{ini}"
        text = any_port((self.folder / ini).read_text())
        copy.write_text(text.replace("[server:main]", f"{change}\n\n[server:main]"))
        server = Server(
            [".venv/bin/pserve", copy.name], self.folder, self.environment | environment
        )
        try:
            yield server
        finally:
            server.stop()
            copy.unlink()

    def sql(self, url: str, *statements: str) -> None:
        """Send statements to a database."""
        self.done(".venv/bin/python", "-c", RUN_SQL, url, *statements)


def all_ran(output: str) -> str:
    """Give pytest's last line; it must tell of no test that was skipped or failed as expected."""
    (summary,) = re.findall(r"^(?:=+ )?(\d+ passed.* in .*)$", output, re.MULTILINE)
    assert not re.search(r"skipped|xfailed|xpassed|failed|error", str(summary)), output
    return str(summary)


def any_port(ini: str) -> str:
    """Let the system choose the port, on the address that the file names."""
    changed = ini.replace("listen = localhost:6543", "listen = localhost:0")
    assert changed != ini
    return changed


def user_environment(folder: Path) -> dict[str, str]:
    """Give the environment of a user who has uv, a Python, and what each system has."""
    others = {key: value for key, value in os.environ.items() if not key.startswith("TEST_")}
    commands = link_commands(folder / "commands", "uv")
    path = os.pathsep.join([commands, *SYSTEM_FOLDERS])
    return others | {"PATH": path, "TMPDIR": str(folder)}


def make_project(
    folder: Path,
    environment: dict[str, str],
    database: str = "sqlite",
    *,
    executor: str = "local",
    template: Path = TEMPLATE,
    **more: str,
) -> Project:
    """Render with the set-up on, by the command that a user types."""
    command = cookiecutter_command(template, make_config(folder))
    answers = [f"database={database}", f"executor={executor}"]
    child = Child([*command, *answers], folder, environment | more)
    return Project(folder / "data_flows", environment | more, child.finish(PATIENCE_SECONDS))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project that the test may change."""
    return make_project(tmp_path, user_environment(tmp_path))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that the tests leave as it is: made once, since they go to one worker."""
    folder = tmp_path_factory.mktemp("shared")
    return make_project(folder, user_environment(folder))


@pytest.fixture
def own_database(shared: Project, tmp_path: Path) -> str:
    """The URL of a migrated database for one test alone."""
    url = f"sqlite:///{tmp_path}/own.sqlite"
    shared.done(".venv/bin/heartbeat", "migrate", DATABASE_URL=url)
    return url


def test_p20_one_command_installs_it(project: Project) -> None:
    assert project.rendered.status == 0, project.rendered.everything
    enter, serve, call = project.rendered.output.splitlines()[-3:]
    ini = project.folder / "development.ini"
    assert f"listen = {urlsplit(call.split()[-1]).netloc}\n" in ini.read_text()
    ini.write_text(any_port(ini.read_text()))

    server = Server(["sh", "-c", f"{enter}\n{serve}"], project.folder.parent, project.environment)
    try:
        call = call.replace(":6543", f":{server.port}")
        answer = project.paste([enter, f"{call} -sS -w '%{{http_code}}'"])
    finally:
        server.stop()

    reply, status = answer.splitlines()
    assert status == "200"
    assert json.loads(reply)["flows_succeeded"] == 1
    assert [run["status"] for run in project.runs()] == ["success"]


def test_make_sure_sets_up_and_passes_with_no_test_skipped(tmp_path: Path) -> None:
    project = make_project(tmp_path, user_environment(tmp_path), HEARTBEAT_SETUP="0")

    all_ran(project.done("make", "sure"))


def test_make_serve_sets_up_and_serves(tmp_path: Path) -> None:
    project = make_project(tmp_path, user_environment(tmp_path), HEARTBEAT_SETUP="0")
    ini = project.folder / "development.ini"
    ini.write_text(any_port(ini.read_text()))

    server = Server(["make", "serve"], project.folder, project.environment)
    try:
        reply = server.beat(project.token)
    finally:
        server.stop()

    # Its own scheduler may have come first.
    assert reply.status == 200, server.said
    assert {run["status"] for run in project.runs()} == {"success"}


@SHARES
def test_the_commands_of_the_readme_work(shared: Project, own_database: str) -> None:
    blocks = readme_code(shared.section("Call it"))
    (commands,) = [block for block in blocks if block[0].startswith(".venv/bin/heartbeat")]

    said = shared.paste(commands, DATABASE_URL=own_database)

    assert len(commands) >= 5
    assert "import_csv" in said
    assert "your own migrations are applied" in said


def test_a_table_is_added_as_in_the_readme(project: Project) -> None:
    model, commands = readme_code(project.section("Your tables"))
    (project.package / "models" / "order.py").write_text("\n".join(model))

    before = project.heartbeat("check")
    project.paste(commands)
    after = project.heartbeat("check")
    project.done(".venv/bin/ruff", "check", str(project.package / "migrations"))
    project.done(".venv/bin/ruff", "format", "--check", str(project.package / "migrations"))

    (revision,) = (project.package / "migrations" / "versions").glob("*add_orders.py")
    assert re.findall(r"op\.create_table\(\s*[\"'](\w+)", revision.read_text()) == ["orders"]
    assert "data_flow" not in revision.read_text()
    assert "No new upgrade operations" in alembic_check(project)
    assert (before.status, after.status) == (1, 0), before.everything + after.everything
    assert "the database differs from your models (add_table orders)" in before.output


def test_without_uv_pip_does_it(tmp_path: Path) -> None:
    environment = user_environment(tmp_path)
    environment["PATH"] = link_commands(tmp_path / "without_uv", "sh")

    project = make_project(tmp_path, environment)

    assert "with pip" in project.rendered.output, project.rendered.everything
    with project.serve("development.ini") as server:
        assert server.beat(project.token).status == 200


@SHARES
def test_development_answers_over_a_socket(shared: Project, own_database: str) -> None:
    with shared.serve("development.ini", DATABASE_URL=own_database) as server:
        page = server.call("GET", "/")
        refused = server.call("POST", "/heartbeat")
        first = server.beat(shared.token)
        second = server.beat(shared.token)

    assert (page.status, refused.status) == (200, 401)
    assert "_debug_toolbar" in page.text
    assert (first.status, first.json()["flows_succeeded"]) == (200, 1)
    assert (second.status, second.json()["flows_due"]) == (200, 0)
    assert shared.token not in server.said


@SHARES
def test_production_keeps_to_itself_and_takes_its_secrets_from_the_environment(
    shared: Project, own_database: str
) -> None:
    secret = uuid.uuid4().hex
    environment = {"DATABASE_URL": own_database, "HEARTBEAT_TOKEN": secret}
    with shared.serve("production.ini", **environment) as server:
        page = server.call("GET", "/")
        toolbar = server.call("GET", "/_debug_toolbar/")
        refused = server.call("POST", "/heartbeat")
        wrong = server.beat(f"{secret}x")
        first = server.beat(secret)

    assert (page.status, toolbar.status) == (200, 404)
    assert "_debug_toolbar" not in page.text
    assert (refused.status, wrong.status) == (401, 401)
    assert {refused.kind, wrong.kind} == {"application/problem+json"}
    assert (first.status, first.json()["flows_succeeded"]) == (200, 1)
    assert secret not in server.said
    logged = [line for line in server.lines if not line.startswith("Starting server in PID ")]
    messages = [json.loads(line)["message"] for line in logged]
    addresses = [urlsplit(text.split()[-1]).hostname for text in messages if "Serving on" in text]
    assert addresses != []
    assert set(addresses) <= {"127.0.0.1", "::1"}


def test_production_is_installed_as_in_the_readme(tmp_path: Path) -> None:
    project = make_project(tmp_path, user_environment(tmp_path), HEARTBEAT_SETUP="0")
    install, make, serve, crontab = readme_code(project.section("Put it into production"))
    assert install.pop() == "export HEARTBEAT_CONFIG=production.ini"
    of_cron = f"cd {project.folder}"
    call = crontab[0].removeprefix("* * * * * ").replace("cd /srv/data_flows", of_cron)

    project.paste(install)
    told = project.paste(
        [f"{line} -c production.ini" if "heartbeat " in line else line for line in make]
    )
    with project.serve(serve[0].split()[-1]) as server:
        reply = json.loads(project.paste([call.replace(":6543", f":{server.port}")]))

    assert "wrong" not in told
    assert of_cron in call
    assert reply["flows_succeeded"] == 1, server.said
    assert not (project.folder / ".venv" / "bin" / "pytest").exists()


def test_the_example_is_removed_as_in_the_readme(project: Project) -> None:
    project.done(".venv/bin/heartbeat", "beat")
    (commands,) = readme_code(project.section("The example"))

    removed = project.paste(commands)

    assert "removed import_csv and its 1 runs" in removed
    assert "still declared" not in removed
    assert "No new upgrade operations" in alembic_check(project)
    assert project.done(".venv/bin/heartbeat", "flows").strip() == "no flows"
    project.done(".venv/bin/heartbeat", "check")
    project.done(".venv/bin/ruff", "check", ".")
    project.done(".venv/bin/mypy")
    project.run_tests()


def delete_part(project: Project, name: str) -> None:
    """Delete an optional part of the engine, its line, and its tests."""
    engine, tests = project.package / "heartbeat", project.add_engine_tests()
    lines = (engine / "__init__.py").read_text().splitlines(keepends=True)
    left = [line for line in lines if not line.startswith(f'    "{name}",  # ')]
    assert len(left) == len(lines) - (name != "testing"), f"{name} has one line"
    (engine / "__init__.py").write_text("".join(left))
    if name == "testing":  # pytest loads it, by a line of the tests
        conftest = project.folder / "tests" / "conftest.py"
        conftest.write_text(re.sub(r"pytest_plugins = .*\n", "", conftest.read_text()))
        (project.folder / "tests" / "test_import_csv.py").unlink()
    (part,) = (engine / "optional").glob(f"{name}*")
    if part.is_dir():
        shutil.rmtree(part)
    else:
        part.unlink()
    for pattern in OPTIONAL[name].split("|"):
        for test in tests.rglob(f"test_{pattern}.py"):
            test.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONAL)
def test_each_optional_part_goes_alone(project: Project, name: str) -> None:
    delete_part(project, name)

    project.done(".venv/bin/heartbeat", "beat")
    for other in NEEDED_BY.get(name, ()):  # it works without, but its imports have no types
        delete_part(project, other)
    project.done(".venv/bin/mypy", "src")
    project.run_engine_tests("tests/engine/unit", "tests/engine/functional/test_commands.py")


@pytest.mark.slow
def test_all_optional_parts_go_together(project: Project) -> None:
    for name in OPTIONAL:
        delete_part(project, name)

    project.done(".venv/bin/heartbeat", "beat")
    project.done(".venv/bin/mypy", "src")
    project.run_engine_tests()


def alembic_check(project: Project) -> str:
    """See whether models equal migrations."""
    result = project.run(".venv/bin/alembic", "-c", "development.ini", "check")
    assert result.status == 0, result.everything
    return result.everything


def test_the_first_flow_of_the_readme_runs_on_the_next_beat(project: Project) -> None:
    (flow,) = readme_code(project.section("Add a flow"))
    (project.package / "flows" / "greet.py").write_text("\n".join(flow) + "\n")

    project.done(".venv/bin/heartbeat", "beat")

    (run,) = [run for run in project.runs() if run["flow"] == "greet"]
    assert (run["status"], run["result"]) == ("success", {"greeted": 1})
    assert "hello, it is about 2" in run["log"]
    assert len(flow) <= 10
    (test,) = readme_code(project.section("Test a flow"))
    (project.folder / "tests" / "test_greet.py").write_text("\n".join(test) + "\n")
    assert all_ran(project.done(*PYTEST, "tests/test_greet.py")).startswith("1 passed")


def test_files_of_the_inbox_are_loaded_and_a_broken_one_is_named(project: Project) -> None:
    inbox = project.folder / "var" / "inbox"
    (inbox / "birds.csv").write_text("name,legs\nheron,2\n")
    good = project.heartbeat("beat")
    (inbox / "broken.csv").write_bytes(b"name\nheron\nK\xe4uzchen\n")

    broken = project.heartbeat("run", "import_csv")

    assert (good.status, broken.status) == (0, 1)
    failed, succeeded = project.runs()
    assert (succeeded["status"], succeeded["result"]["rows"]) == ("success", 1)
    assert (failed["status"], failed["error_type"]) == ("failed", "InvalidCsvError")
    assert failed["error_message"].splitlines() == [
        "broken.csv, row 3: byte 0xe4 is not text; save the file as UTF-8"
    ]
    assert "broken.csv, row 3" in " ".join(broken.output.split())
    assert "Traceback" not in broken.errors


@SHARES
def test_an_unknown_setting_is_named_at_the_start(shared: Project) -> None:
    copy = shared.folder / "unknown.ini"
    ini = (shared.folder / "development.ini").read_text()
    copy.write_text(ini.replace("[server:main]", "heartbeat.wokers = 4\n\n[server:main]"))
    try:
        command = shared.heartbeat("flows", "-c", copy.name)
        server = shared.run(".venv/bin/pserve", copy.name)
    finally:
        copy.unlink()

    assert command.status != 0
    assert (
        "heartbeat.wokers: there is no such setting; did you mean heartbeat.workers?"
        in command.errors
    )
    assert "Traceback" not in command.errors
    assert server.status != 0
    assert (
        "heartbeat.wokers: there is no such setting; did you mean heartbeat.workers?"
        in server.errors
    )


@SHARES
def test_a_missing_database_is_named_with_the_fix(shared: Project, tmp_path: Path) -> None:
    file = tmp_path / "own.sqlite"
    environment = {"DATABASE_URL": f"sqlite:///{file}"}
    shared.done(".venv/bin/heartbeat", "migrate", **environment)
    with shared.serve("development.ini", **environment) as server:
        before = server.beat(shared.token)
    for left in tmp_path.glob("own.sqlite*"):
        left.unlink()
    with shared.serve("development.ini", **environment) as server:
        after = server.beat(shared.token)
        shared.done(".venv/bin/heartbeat", "migrate", **environment)
        mended = server.beat(shared.token)
    file.unlink()
    command = shared.heartbeat("beat", **environment)

    assert (before.status, after.status, mended.status) == (200, 503, 200)
    assert after.kind == "application/problem+json"
    assert "heartbeat migrate" in after.json()["detail"]
    assert command.status == 1
    assert command.errors.strip().splitlines()[-1].startswith("Error: ")
    assert "heartbeat migrate" in command.errors
    assert "Traceback" not in command.errors


@SHARES
def test_a_wrong_token_is_refused_in_words(shared: Project, own_database: str) -> None:
    with shared.serve("development.ini", DATABASE_URL=own_database) as server:
        reply = server.beat("wrong")

    assert reply.status == 401
    assert reply.json()["error"] == "Unauthorized"
    assert "token" in reply.json()["detail"]
    assert shared.runs(DATABASE_URL=own_database) == []


@dataclass(frozen=True)
class Database:
    """A server to make databases on, and a project that has one there."""

    project: Project
    name: str
    server: str

    @property
    def is_postgresql(self) -> bool:
        """Tell the two kinds apart."""
        return self.server.startswith("postgresql")

    def url(self, name: str, user: str = "") -> str:
        """Give the URL of a database of that name, for the tests' user or another."""
        parts = urlsplit(self.server)
        place = f"{user}@{parts.netloc.rpartition('@')[2]}" if user else parts.netloc
        return parts._replace(netloc=place, path=f"/{name}").geturl()

    def admin(self, *statements: str) -> None:
        """Send statements to the server."""
        self.project.sql(self.server, *statements)


def server_url(kind: str) -> str:
    """Give the URL of a server of that kind; without one the test is skipped."""
    variable = f"TEST_{kind.upper()}_URL"
    url = os.environ.get(variable)
    if not url:
        pytest.skip(f"{variable} names no server")
    return url


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(kind, marks=pytest.mark.xdist_group(kind)) for kind in ("postgresql", "mysql")
    ],
)
def database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    """A project on a server's database that did not exist before, and does not after."""
    server = server_url(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    name = f"heartbeat_project_{uuid.uuid4().hex[:8]}"
    parts = urlsplit(server)._replace(path=f"/{name}")
    project = make_project(
        folder, user_environment(folder), request.param, DATABASE_URL=parts.geturl()
    )
    made = Database(project, name, server)
    yield made
    made.admin(f"DROP DATABASE {name}")


def test_setup_makes_the_database_and_a_beat_runs_on_it(database: Database) -> None:
    project = database.project
    assert "database of DATABASE_URL up to date" in project.rendered.output, project.rendered
    (project.folder / "var" / "inbox" / "birds.csv").write_text("name\nKäuzchen 🦉\nowl\n")

    with project.serve("production.ini") as server:
        reply = server.beat(project.token)

    assert (reply.status, reply.json()["flows_succeeded"]) == (200, 1), server.said
    assert project.runs()[0]["result"] == {"files": 1, "rows": 2, "problems": []}
    assert "No new upgrade operations" in alembic_check(project)
    project.done(".venv/bin/heartbeat", "check")


@contextmanager
def narrow_database(database: Database, options: str) -> Iterator[dict[str, str]]:
    """Give the environment that names a database made with these options."""
    name = f"heartbeat_narrow_{uuid.uuid4().hex[:8]}"
    database.admin(f"CREATE DATABASE {name} {options}")
    yield {"DATABASE_URL": database.url(name)}
    database.admin(f"DROP DATABASE {name}")


@contextmanager
def with_birds(project: Project) -> Iterator[None]:
    """Add a table of the user's own, and take it away with all that was made for it."""
    models, versions = project.package / "models", project.package / "migrations" / "versions"
    before = {*versions.glob("*.py")}
    (models / "bird.py").write_text(BIRD)
    try:
        yield
    finally:
        for made in {models / "bird.py", *versions.glob("*.py")} - before:
            made.unlink()


def test_any_unicode_is_stored_whatever_the_default_character_set_is(database: Database) -> None:
    project = database.project
    ascii_alone = "ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    narrow = ["CHARACTER SET latin1", "CHARACTER SET utf8mb3"]
    _model, commands = readme_code(project.section("Your tables"))
    file = project.folder / "var" / "inbox" / "Käuzchen 🦉.csv"
    file.write_text("name\n🦉\n")
    for options in [ascii_alone] if database.is_postgresql else narrow:
        with narrow_database(database, options) as environment, with_birds(project):
            project.paste(commands[-1:], **environment)
            imported = project.heartbeat("run", "import_csv", **environment)
            project.paste(commands, **environment)
            stored = project.done(".venv/bin/python", "-c", STORE_BIRD, **environment)

        assert imported.status == 0, imported.everything
        assert stored.strip() == "Käuzchen 🦉"
    file.unlink()


@pytest.mark.servers
def test_its_own_tests_pass_on_that_server_and_none_is_skipped(database: Database) -> None:
    database.project.run_tests(TEST_DATABASE_URL=database.server)


@pytest.mark.slow
def test_its_slow_tests_pass_on_that_server(database: Database) -> None:
    folders = ("tests/engine/concurrency", "tests/engine/unit")
    database.project.run_engine_tests(*folders, marked="slow", TEST_DATABASE_URL=database.server)


def test_where_no_database_may_be_made_the_one_command_is_printed(database: Database) -> None:
    project = database.project
    name, role = (f"heartbeat_{what}_{uuid.uuid4().hex[:8]}" for what in ("missing", "role"))
    url = database.url(name, f"{role}:secret-word")
    kind, how = ("ROLE", "LOGIN PASSWORD") if database.is_postgresql else ("USER", "IDENTIFIED BY")
    database.admin(f"CREATE {kind} {role} {how} 'secret-word'")
    try:
        first = project.run("make", "setup", DATABASE_URL=url)
        (command,) = re.findall(r"create it with (.+)", first.errors)
        statement = shell_words(command)[-1]
        database.admin(*statement.split("; "))
        second = project.run("make", "setup", DATABASE_URL=url)
    finally:
        database.admin(f"DROP DATABASE IF EXISTS {name}", f"DROP {kind} {role}")

    assert first.status != 0
    assert f"The step migrate failed: Error: the database '{name}' is missing" in " ".join(
        first.errors.split()
    )
    assert "secret-word" not in first.everything
    assert second.status == 0, second.everything


def shell_words(command: str) -> list[str]:
    """Split a command as the shell does."""
    return subprocess.run(
        ["sh", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True
    ).stdout.split("\0")[:-1]


def test_a_server_that_is_away_leaves_the_project_and_the_commands(tmp_path: Path) -> None:
    # Bound and not listening: nobody else can have this port.
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"postgresql+psycopg://ada:secret-word@127.0.0.1:{silent.getsockname()[1]}/data_flows"
        project = make_project(tmp_path, user_environment(tmp_path), "postgresql", DATABASE_URL=url)

    assert project.rendered.status == 0
    errors = project.rendered.errors
    (cause,) = [line for line in errors.splitlines() if "The step migrate failed" in line]
    assert "cannot be reached" in cause
    assert "refused" in cause
    assert "secret-word" not in project.rendered.everything
    assert "-m data_flows.heartbeat migrate -c development.ini" in errors
    assert errors.splitlines()[-1] == "make setup"
    assert (project.folder / "README.md").is_file()
    assert project.token

    mended = project.run("make", "setup", DATABASE_URL=f"sqlite:///{tmp_path}/mended.sqlite")
    assert mended.status == 0, mended.everything


def test_the_demo_shows_the_whole_path(tmp_path: Path) -> None:
    demo = Child(["make", "demo"], TEMPLATE, user_environment(tmp_path)).finish(PATIENCE_SECONDS)

    assert demo.status == 0, demo.everything
    (airports,) = re.findall(r"^airports in the database: (\d+)$", demo.output, re.MULTILINE)
    assert AIRPORTS <= int(airports) < AIRPORTS + 1_000
    assert demo.output.count("POST http://127.0.0.1:") == 2
    assert [path.name for path in tmp_path.iterdir() if "heartbeat-demo" in path.name] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mysql"])
def test_the_lowest_versions_that_are_allowed_work(tmp_path: Path, kind: str) -> None:
    server = {} if kind == "sqlite" else {"TEST_DATABASE_URL": server_url(kind)}
    project = make_project(tmp_path, user_environment(tmp_path), kind, HEARTBEAT_SETUP="0")

    project.done("uv", "venv", "--quiet", "-p", sys.executable, ".venv")
    lowest = ["--resolution", "lowest-direct", "-p", ".venv/bin/python"]
    project.done("uv", "pip", "install", *lowest, "-e", ".[dev]")

    project.run_tests(**server)
    project.run_engine_tests(**server)
    project.done(".venv/bin/mypy")


def test_a_new_flow_with_a_table_is_ready_on_that_server(database: Database) -> None:
    project = database.project
    before = {*project.package.rglob("*.py"), *(project.folder / "tests").rglob("*.py")}
    try:
        project.done(".venv/bin/heartbeat", "new", "count_owls", "--every", "5m", "--table")
        (revision,) = project.package.rglob("*_count_owls_records.py")
        has_character_set = 'mysql_charset="utf8mb4"' in revision.read_text()
        project.done(".venv/bin/heartbeat", "migrate")
        checked = alembic_check(project)
        project.done(".venv/bin/heartbeat", "run", "count_owls")
        project.done(*PYTEST, "tests/test_count_owls.py", TEST_DATABASE_URL=database.server)
        project.done(".venv/bin/alembic", "-c", "development.ini", "downgrade", "-1")
        project.done(".venv/bin/heartbeat", "remove", "count_owls")
    finally:
        for made in {
            *project.package.rglob("count_owls*"),
            *project.package.rglob("*_count_owls*"),
        }:
            made.unlink()
        (project.folder / "tests" / "test_count_owls.py").unlink(missing_ok=True)

    assert has_character_set is not database.is_postgresql
    assert "No new upgrade operations" in checked
    assert before == {*project.package.rglob("*.py"), *(project.folder / "tests").rglob("*.py")}
