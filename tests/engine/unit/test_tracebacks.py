"""Formatting of any error, with limits of the length."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_flows.heartbeat.redaction import LONGEST_BACKTRACE, LONGEST_MESSAGE, describe_error
from data_flows.heartbeat.tracebacks import UNREADABLE

from .. import odd_errors
from ..odd_errors import NAMES, ODD, raised


def backtrace(error: BaseException) -> str:
    return describe_error(error)["error_backtrace"]


@pytest.mark.parametrize("make", ODD, ids=NAMES)
def test_any_error_is_described_as_far_as_it_can_be_read(
    make: Callable[[Path], BaseException], tmp_path: Path
) -> None:
    error = make(tmp_path)

    described = describe_error(error)

    assert {type(text) for text in described.values()} == {str}
    assert 0 < len(described["error_type"]) <= 200
    assert len(described["error_message"]) <= LONGEST_MESSAGE
    assert len(described["error_backtrace"]) <= LONGEST_BACKTRACE
    # The frames of having been raised are there, but for those of the deepest of all.
    assert "Traceback (most recent call last):" in described["error_backtrace"]
    for text in described.values():
        text.encode()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (odd_errors.of_a_lying_metaclass, "said"),
        (odd_errors.without_attributes, "said"),
        (odd_errors.with_a_class_that_blows, "said"),
        (odd_errors.without_text, UNREADABLE),
        (odd_errors.exiting_in_its_text, UNREADABLE),
        (odd_errors.with_an_odd_text, "said"),
        (odd_errors.with_notes_that_blow, f"said\n{UNREADABLE}"),
        (odd_errors.with_notes_that_are_no_list, "said\n7"),
        (
            odd_errors.with_notes_that_are_no_text,
            f"said\n1\nNone\n{UNREADABLE}\nb'bytes'\nsaid",
        ),
        (odd_errors.with_causes_that_blow, "said"),
        (odd_errors.of_odd_names, "said"),
    ],
)
def test_the_text_of_an_error_is_kept_where_it_can_be_read(
    make: Callable[[], BaseException], message: str
) -> None:
    assert describe_error(make())["error_message"] == message


def test_a_name_is_the_one_that_the_class_was_given() -> None:
    assert describe_error(odd_errors.of_a_lying_metaclass())["error_type"] == "Odd"


def test_of_many_causes_the_newest_and_the_first_are_shown() -> None:
    lines = backtrace(odd_errors.of_thousands_of_causes()).splitlines()

    assert lines[0] == "ValueError: the first"
    assert "(4991 exceptions in between are left out)" in lines
    assert lines[-1] == "ValueError: 4999"
    assert len([line for line in lines if line.startswith("ValueError")]) == 10


def test_causes_in_a_circle_are_shown_once() -> None:
    lines = backtrace(odd_errors.of_causes_in_a_circle()).splitlines()

    assert [line for line in lines if line.startswith("ValueError")] == [
        "ValueError: first",
        "ValueError: said",
    ]


def test_causes_and_contexts_are_distinguished() -> None:
    cause, context = ValueError("cause"), ValueError("context")
    error, hidden = RuntimeError("error"), ValueError("hidden")
    error.__cause__, error.__context__ = cause, hidden
    cause.__context__ = context

    assert backtrace(error).splitlines() == [
        "ValueError: context",
        "",
        "During handling of the above exception, another exception occurred:",
        "",
        "ValueError: cause",
        "",
        "The above exception was the direct cause of the following exception:",
        "",
        "RuntimeError: error",
    ]


def test_a_context_that_was_suppressed_is_not_shown() -> None:
    error = RuntimeError("error")
    error.__context__ = ValueError("context")
    error.__suppress_context__ = True

    assert backtrace(error) == "RuntimeError: error\n"


def test_the_members_of_a_group_are_shown_below_it() -> None:
    inner = ExceptionGroup("inner", [raised(KeyError("a")), ValueError("b")])

    lines = backtrace(ExceptionGroup("outer", [inner, ValueError("c")])).splitlines()

    assert lines[:2] == ["ExceptionGroup: outer (2 sub-exceptions)", "  +- 1 of 2"]
    assert "  |   | KeyError: 'a'" in lines
    assert lines[-4:-2] == ["  |   +- 2 of 2", "  |   | ValueError: b"]
    assert lines[-2:] == ["  +- 2 of 2", "  | ValueError: c"]


def test_of_a_large_group_ten_errors_are_shown_in_all() -> None:
    for make in (odd_errors.group_of_thousands, odd_errors.group_of_groups):
        lines = backtrace(make()).splitlines()

        names = [line for line in lines if "ValueError" in line or "Group:" in line]
        assert len([line for line in names if "raise" not in line]) == 10
        assert any("more are left out" in line for line in lines)


def test_of_many_frames_the_outermost_and_the_innermost_are_shown() -> None:
    lines = backtrace(odd_errors.of_a_recursion()).splitlines()

    assert any("frames in between are left out" in line for line in lines)
    assert len([line for line in lines if line.startswith("  File ")]) == 20
    assert lines[-1].startswith("RecursionError")


def test_the_expression_that_failed_is_marked(tmp_path: Path) -> None:
    source = 'birds = {"Käuzchen": {"legs": 2}}\nlegs = birds["Käuzchen"]["wings"] + 1\n'
    file = tmp_path / "birds.py"
    file.write_text(source)

    try:
        exec(compile(source, str(file), "exec"), {})  # noqa: S102 - an example
    except KeyError as error:
        lines = backtrace(error).splitlines()

    assert lines[-3:] == [
        '    legs = birds["Käuzchen"]["wings"] + 1',
        "           ^^^^^^^^^^^^^^^^^^^^^^^^^^",
        "KeyError: 'wings'",
    ]


def test_a_long_line_of_code_is_cut_without_a_part_of_a_secret(tmp_path: Path) -> None:
    source = f"x = '{'y' * 2_000}'; raise ValueError() # password='hunter2 hunter2'"
    for length in range(60, 120):
        file = tmp_path / f"long_{length}.py"
        line = f"{'x' * length} = 1; password = 'hunter2 hunter2'; {source}"
        file.write_text(line)
        shown = backtrace(odd_errors.from_a_file(str(file), line))
        assert "hunte" not in shown
        assert "nter2" not in shown
