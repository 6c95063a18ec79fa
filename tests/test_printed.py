"""What is printed can be pasted: code passes the checks, and commands survive a new token."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest
from conftest import TEMPLATE
from test_project import Project, Server, make_project, user_environment
from test_rendering import readme_blocks, readme_code

pytestmark = [pytest.mark.install, pytest.mark.xdist_group("printed")]

TOKEN = (".venv/bin/heartbeat", "token")
BEAT, OPERATOR = ("var/beat.token", "var/operator.token")
IMPORT = re.compile(r"^from .* import ", re.MULTILINE)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project into which everything is pasted."""
    folder = tmp_path_factory.mktemp("printed")
    project = make_project(folder, user_environment(folder))
    for place, code in python_blocks(project).items():
        (project.folder / place).write_text(code)
    return project


def python_blocks(project: Project) -> dict[str, str]:
    """Give all Python that is printed, by the file that it belongs into."""
    texts = [
        TEMPLATE / "README.md",
        *project.folder.glob("*.md"),
        *project.folder.glob("docs/*.md"),
    ]
    blocks = [block for file in texts for block in readme_blocks(file.read_text())]
    blocks += page_blocks((project.package / "templates" / "home.jinja2").read_text())
    return {place_of(block): block for block in blocks if IMPORT.search(block)}


def place_of(code: str) -> str:
    """Give the file for a block of Python."""
    if flow := re.search(r"^@flow\(.*\)\ndef (\w+)", code, re.MULTILINE):
        return f"src/data_flows/flows/{flow[1]}.py"
    if model := re.search(r"^class (\w+)\(Base\)", code, re.MULTILINE):
        return f"src/data_flows/models/{model[1].lower()}.py"
    return "gunicorn.conf.py"


def page_blocks(page: str) -> list[str]:
    """Give the blocks of a page, as a browser copies them."""
    blocks = re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", page, re.DOTALL)
    return [f"{html.unescape(block)}\n" for block in blocks]


def calls(project: Project, server: Server) -> list[list[str]]:
    """Give each printed command that sends a token, with what belongs to it, for this server."""
    printed = [
        project.rendered.output.splitlines()[-1:],
        *readme_code(project.section("Call it")),
        *readme_code(project.section("Operate it")),
        *(block.splitlines() for block in page_blocks(server.call("GET", "/").text)),
    ]
    return [
        [line.replace(":6543", f":{server.port}").replace("curl ", "curl -fsS ") for line in lines]
        for lines in printed
        if any("Bearer" in line for line in lines)
    ]


def fingerprints(project: Project) -> dict[str, str]:
    """Give the fingerprint of the oldest token of each role."""
    listed: list[dict[str, Any]] = json.loads(project.done(*TOKEN, "list", "--json"))
    return {each["role"]: each["fingerprint"] for each in reversed(listed)}


def test_the_code_that_is_printed_passes_the_checks(project: Project) -> None:
    blocks = python_blocks(project)

    project.done(".venv/bin/ruff", "format", "--check", ".")
    project.done(".venv/bin/ruff", "check", ".")
    project.done(".venv/bin/mypy")

    assert sorted(blocks) == [
        "gunicorn.conf.py",
        "src/data_flows/flows/forget_old_files.py",
        "src/data_flows/flows/greet.py",
        "src/data_flows/flows/say_hello.py",
        "src/data_flows/models/order.py",
    ]


def test_the_flows_that_are_printed_run(project: Project) -> None:
    for name in ("forget_old_files", "greet", "say_hello"):
        result = project.heartbeat("run", name)
        assert result.status == 0, result.everything


def test_commands_that_send_a_token_survive_its_replacement(project: Project) -> None:
    (replacing,) = readme_code(project.section("Replace a token"))
    rotate, show, *last = replacing
    project.paste([rotate, f"{rotate.partition('#')[0]} --role operator --name 'ada 2026'"])
    for name in (BEAT, OPERATOR):
        file = project.folder / name
        file.write_text(f"# ours\n{file.read_text()}# no more\n")
    oldest, newest = fingerprints(project), project.done(*TOKEN, "show")

    with project.serve("development.ini") as server:
        both = [project.paste(lines) for lines in calls(project, server)]
        first = (project.folder / BEAT).read_text().splitlines()[1]
        still_valid = server.beat(first).status
        project.paste([show, *(line.replace("FINGERPRINT", oldest["beat"]) for line in last)])
        for_operators = f"--role operator --remove {oldest['operator']}"
        project.done(*TOKEN, "rotate", *for_operators.split())
        gone = server.beat(first).status
        project.paste(calls(project, server)[0])

    assert len(both) == 4
    assert (still_valid, gone) == (200, 401)
    assert newest == project.done(*TOKEN, "show")
