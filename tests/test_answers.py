"""What the questions promise: defaults that work, one clear line for an answer that cannot."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pre_gen_project
import pytest
from conftest import PROJECT, TEMPLATE, Render, cookiecutter_command
from cookiecutter.environment import StrictEnvironment
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Sequence

GOOD_ANSWERS = {
    "project_name": "Data Flows",
    "project_slug": "data_flows",
    "description": "What it does",
    "database": "sqlite",
    "executor": "local",
}
FOLDER = Path("/srv/data_flows")
QUESTIONS = json.loads((TEMPLATE / "cookiecutter.json").read_text())


def faults(**answers: str) -> Sequence[str]:
    """Give the faults of good answers but for those named."""
    return pre_gen_project.find_faults(GOOD_ANSWERS | answers, FOLDER, (3, 11))


def test_five_questions_are_asked_each_with_words_for_people() -> None:
    asked = [name for name in QUESTIONS if not name.startswith("_")]

    assert asked == ["project_name", "project_slug", "description", "database", "executor"]
    assert list(QUESTIONS["__prompts__"]) == asked
    for name in ("database", "executor"):
        assert set(QUESTIONS["__prompts__"][name]) == {"__prompt__", *QUESTIONS[name]}


def test_the_defaults_render_a_project_of_that_name(render: Render) -> None:
    project = render()

    assert project.name == "data_flows"
    assert (project / "scripts" / "bootstrap.py").is_file()


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Data Flows", "data_flows"),
        ("data-flows 2", "data_flows_2"),
        ("  Two   Spaces ", "two_spaces"),
        ("Übung & Söhne", "ubung_sohne"),
        ("O'Brien's Flows", "o_brien_s_flows"),
        ("日本", "ri_ben"),
        ("🚀", "data_flows"),
    ],
)
def test_the_slug_is_made_from_the_name(name: str, slug: str) -> None:
    environment = StrictEnvironment(context={"cookiecutter": {}})
    question = environment.from_string(QUESTIONS["project_slug"])

    assert question.render(cookiecutter={"project_name": name}) == slug


def test_good_answers_have_no_fault() -> None:
    assert faults() == []


@pytest.mark.parametrize("slug", ["a", "x9", "data_flows", "a" * 50, "match", "heartbeats"])
def test_a_package_name_is_taken(slug: str) -> None:
    assert faults(project_slug=slug) == []


@pytest.mark.parametrize(
    ("slug", "why"),
    [
        ("", "is not a package name"),
        ("2fast", "is not a package name"),
        ("Data", "is not a package name"),
        ("data-flows", "is not a package name"),
        ("data flows", "is not a package name"),
        ("data_flows\n", "is not a package name"),
        ("übung", "is not a package name"),
        ("_data", "is not a package name"),
        ("../elsewhere", "is not a package name"),
        ("a" * 51, "has 51 characters: use at most 50"),
        ("class", "is a Python keyword"),
        ("json", "is a module of Python's standard library"),
        ("heartbeat", "would hide a module that the project imports"),
        ("pyramid", "would hide a module that the project imports"),
        ("tests", "would hide a module that the project imports"),
        ("postgres", "names a database of the server's own"),
    ],
)
def test_a_slug_that_cannot_work_is_refused_with_its_reason(slug: str, why: str) -> None:
    (line,) = faults(project_slug=slug)

    assert line.startswith(f"project_slug {slug!a} {why}")


@pytest.mark.parametrize("question", ["project_name", "description"])
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ('so "called"', "holds a double quote or a backslash"),
        ("C:\\flows", "holds a double quote or a backslash"),
        ("two\nlines", "holds a line break or a control character"),
        ("two\u2028lines", "holds a line break or a control character"),
        ("a\x00b", "holds a line break or a control character"),
        ("a\x7fb", "holds a line break or a control character"),
        ("half \ud83d", "holds a line break or a control character"),
        # No Python file of the template has a statement of Jinja's: hence the hexadecimal.
        ("\x7b% x", "holds \x7b%, which cookiecutter would render"),
        ("{{ 1", "holds {{, which cookiecutter would render"),
        ("{#", "holds {#, which cookiecutter would render"),
    ],
)
def test_a_text_that_breaks_files_is_refused_on_one_line(
    question: str, text: str, why: str
) -> None:
    (line,) = faults(**{question: text})

    assert line.startswith(question)
    assert why in line
    assert len(line.splitlines()) == 1
    assert line.isascii()


@given(text=st.text())
def test_a_text_without_fault_can_stand_in_toml(text: str) -> None:
    if pre_gen_project.fault_of_text("description", text):
        return

    assert tomllib.loads(f'description = "{text}"') == {"description": text}


@given(name=st.text(), description=st.text())
def test_no_answer_breaks_out_of_the_hooks(name: str, description: str) -> None:
    answers = GOOD_ANSWERS | {"project_name": name, "description": description}
    environment = StrictEnvironment(context={"cookiecutter": answers})

    for hook in ("pre_gen_project.py", "post_gen_project.py"):
        source = (TEMPLATE / "hooks" / hook).read_text()
        rendered = environment.from_string(source).render(cookiecutter=answers)

        assert json.loads(constant_of(rendered, "ANSWERS")) == answers


def constant_of(source: str, name: str) -> str:
    """Give the text that a module assigns to a name."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return str(ast.literal_eval(node.value))
    raise LookupError(name)


@pytest.mark.parametrize("executor", ["local", "celery"])
def test_each_executor_is_accepted(executor: str) -> None:
    assert faults(executor=executor) == []


def test_a_path_that_ini_files_cannot_hold_is_refused() -> None:
    (line,) = pre_gen_project.find_faults(GOOD_ANSWERS, Path("/srv/100%/data_flows"), (3, 11))

    assert line.startswith("The path '/srv/100%/data_flows' holds a %")


def test_a_full_disk_is_refused_before_half_a_project_is_in_the_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: usage._replace(free=600_000))

    (line,) = pre_gen_project.find_faults(GOOD_ANSWERS, tmp_path, (3, 11))

    assert line.startswith(f"The disk of '{tmp_path}' has 0.6 MB left, but the project takes ")
    monkeypatch.undo()
    assert pre_gen_project.find_faults(GOOD_ANSWERS, tmp_path, (3, 11)) == []


@pytest.mark.parametrize(
    ("python", "lines"), [((3, 10), 1), ((3, 11), 0), ((3, 14), 0), ((4, 0), 0)]
)
def test_an_old_python_is_refused(python: tuple[int, int], lines: int) -> None:
    assert len(pre_gen_project.find_faults(GOOD_ANSWERS, FOLDER, python)) == lines


def test_a_python_that_is_too_old_reaches_the_message() -> None:
    for script in [*(TEMPLATE / "hooks").glob("*.py"), PROJECT / "scripts" / "bootstrap.py"]:
        ast.parse(script.read_text(), feature_version=(3, 8))


def test_every_fault_gets_a_line_and_nothing_is_left_behind(
    small_template: Path, config: Path, tmp_path: Path
) -> None:
    place = tmp_path / "100%"
    place.mkdir()
    answers = ["project_slug=class", 'description=so "called"']

    result = subprocess.run(
        cookiecutter_command(small_template, config, *answers),
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )

    lines = result.stderr.splitlines()
    assert result.returncode == 1
    assert [line.split()[0] for line in lines[:3]] == ["project_slug", "description", "The"]
    assert list(place.iterdir()) == []


def test_the_engine_and_page_templates_are_copied_byte_by_byte(
    small_template: Path, config: Path, tmp_path: Path
) -> None:
    package = small_template / "{{cookiecutter.project_slug}}/src/{{cookiecutter.project_slug}}"
    # No Python file of the template has a statement of Jinja's: hence the brace in hexadecimal.
    bytes_kept = b"{{ not.ours }} \x7b% nor this\r\n{# nor that\n\xff"
    kept = [
        "heartbeat/core.py",
        "heartbeat/templates/page.jinja2",
        "heartbeat/__pycache__/core.cpython-311.pyc",
        "templates/home.jinja2",
        "migrations/script.py.mako",
    ]
    for name in kept:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_bytes(bytes_kept)
    (package / "views.py").write_bytes(b"name = '{{ cookiecutter.project_slug }}'\r\n")

    subprocess.run(
        cookiecutter_command(small_template, config, "project_slug=other"),
        cwd=tmp_path,
        env={"HEARTBEAT_SETUP": "0"},
        check=True,
    )

    rendered = tmp_path / "other" / "src" / "other"
    assert {name: (rendered / name).read_bytes() for name in kept} == dict.fromkeys(
        kept, bytes_kept
    )
    assert (rendered / "views.py").read_bytes() == b"name = 'other'\n"
