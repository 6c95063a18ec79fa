"""Errors that are hard to format: each function makes one that was raised."""

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

_Error = TypeVar("_Error", bound=BaseException)

THOUSANDS = 5_000
HUGE = 50_000_000


def raised(error: _Error) -> _Error:
    """Return the error with the backtrace of having been raised here."""
    with suppress(BaseException):
        raise error
    return error


class Blow(BaseException):
    """What no `except Exception` catches."""


def blow(*_arguments: object) -> Any:
    """Raise an unexpected error."""
    raise Blow


def made_of(*bases: type, **members: object) -> BaseException:
    """Make an error of a class that has these members."""
    error: BaseException = type("Odd", bases or (ValueError,), members)("said")
    return raised(error)


class _LyingMeta(type):
    """A metaclass with wrong attributes, and without most of the others."""

    def __getattribute__(cls, name: str) -> Any:
        """Raise, but for what raising an error needs."""
        if name in {"__mro__", "__del__", "mro"}:
            return super().__getattribute__(name)
        return blow()


def of_a_lying_metaclass() -> BaseException:
    error: BaseException = _LyingMeta("Odd", (ValueError,), {})("said")
    return raised(error)


def without_attributes() -> BaseException:
    return made_of(__getattribute__=blow)


def with_a_class_that_blows() -> BaseException:
    return made_of(__class__=property(blow))


def without_text() -> BaseException:
    return made_of(__str__=blow, __repr__=blow)


def exiting_in_its_text() -> BaseException:
    return made_of(__str__=lambda _self: sys.exit(7))


def interrupted_in_its_text() -> BaseException:
    def interrupt(_self: object) -> str:
        raise KeyboardInterrupt

    return made_of(__str__=interrupt)


def with_a_text_that_is_none() -> BaseException:
    return made_of(__str__=lambda _self: 5)


def with_an_odd_text() -> BaseException:
    names = ("__getitem__", "__len__", "__iter__", "__format__", "replace", "encode", "__eq__")
    odd = type("OddText", (str,), dict.fromkeys(names, blow))
    return made_of(__str__=lambda _self: odd("said"))


def with_arguments_that_blow() -> BaseException:
    return raised(ValueError(made_of(__str__=blow, __repr__=blow), 2))


def with_an_argument_that_recurses() -> BaseException:
    def recurse(self: object) -> str:
        return repr(self)

    return made_of(__str__=recurse, __repr__=recurse)


def with_notes(notes: object) -> BaseException:
    error = ValueError("said")
    vars(error)["__notes__"] = notes
    return raised(error)


def with_notes_that_are_no_text() -> BaseException:
    return with_notes([1, None, made_of(__str__=blow, __repr__=blow), b"bytes", "said"])


def with_notes_that_are_no_list() -> BaseException:
    return with_notes(7)


def with_notes_that_blow() -> BaseException:
    return made_of(__notes__=property(blow))


def with_notes_of_an_odd_list() -> BaseException:
    odd = type("OddList", (list,), dict.fromkeys(("__getitem__", "__len__", "__iter__"), blow))
    return with_notes(odd(["noted"]))


def with_thousands_of_notes() -> BaseException:
    return with_notes(["noted" * 1_000] * THOUSANDS)


def with_causes_that_blow() -> BaseException:
    return made_of(**dict.fromkeys(("__cause__", "__context__", "__traceback__"), property(blow)))


def of_thousands_of_causes() -> BaseException:
    error = ValueError("the first")
    for number in range(THOUSANDS):
        following = ValueError(number)
        following.__cause__ = error
        error = following
    return raised(error)


def of_causes_in_a_circle() -> BaseException:
    first, second = ValueError("first"), ValueError("said")
    first.__cause__, second.__cause__ = second, first
    return raised(second)


def its_own_cause() -> BaseException:
    error = ValueError("said")
    error.__cause__ = error
    return raised(error)


def group_of_thousands() -> BaseException:
    return raised(ExceptionGroup("said", [raised(ValueError(n)) for n in range(THOUSANDS)]))


def group_nested_hundreds_deep() -> BaseException:
    error: Exception = ValueError("innermost")
    for _ in range(900):
        error = ExceptionGroup("said", [error])
    return raised(error)


def group_of_groups() -> BaseException:
    error: Exception = ValueError("innermost")
    for _ in range(6):
        error = ExceptionGroup("said", [error] * 15)
    return raised(error)


def group_that_blows() -> BaseException:
    group = type("OddGroup", (ExceptionGroup,), {"__str__": blow, "exceptions": property(blow)})
    error: BaseException = group("said", [made_of(__str__=blow)])
    return raised(error)


def of_a_recursion() -> BaseException:
    def recurse() -> None:
        recurse()

    try:
        recurse()
    except RecursionError as error:
        return error
    raise AssertionError


def of_odd_syntax() -> BaseException:
    error = SyntaxError("said", ("odd.py", 3, 5, "x" * 1_000_000))
    error.lineno = error.offset = made_of()  # type: ignore[assignment]
    error.text = error.filename = object()  # type: ignore[assignment]
    return raised(error)


def of_odd_names() -> BaseException:
    error = AttributeError("said", name="x" * 1_000_000, obj=type("O", (), {"__dir__": blow})())
    return raised(error)


def from_a_file(file: str, source: str = "raise ValueError('said')") -> BaseException:
    """Make an error whose backtrace names a file."""
    try:
        exec(compile(source, file, "exec"), {})  # noqa: S102 - an example
    except ValueError as error:
        return error
    raise AssertionError


def from_a_deleted_file(folder: Path) -> BaseException:
    return from_a_file(str(folder / "deleted.py"))


def from_a_binary_file(folder: Path) -> BaseException:
    file = folder / "binary.py"
    file.write_bytes(bytes(range(256)) * 100)
    return from_a_file(str(file))


def from_an_endless_file(_folder: Path) -> BaseException:
    return from_a_file("/dev/zero")


def from_a_folder(folder: Path) -> BaseException:
    return from_a_file(str(folder))


def from_no_file(_folder: Path) -> BaseException:
    return from_a_file("a\udc80 '\"<>" * 1_000)


def from_lines_of_megabytes(folder: Path) -> BaseException:
    source = "raise ValueError('said') #" + "x" * 900_000
    (folder / "long.py").write_text(source)
    return from_a_file(str(folder / "long.py"), source)


def huge_exit() -> BaseException:
    return raised(SystemExit("x" * HUGE))


def huge_message() -> BaseException:
    return raised(ValueError("x" * HUGE))


def of_a_huge_name() -> BaseException:
    error: BaseException = type("N" * HUGE, (ValueError,), {})("said")
    return raised(error)


def of_an_odd_name() -> BaseException:
    error: BaseException = type("Odd\n🦉 name", (ValueError,), {"__module__": blow})("said")
    return raised(error)


IN_MEMORY: list[Callable[[], BaseException]] = [
    *(of_a_lying_metaclass, without_attributes, with_a_class_that_blows, without_text),
    *(exiting_in_its_text, interrupted_in_its_text, with_a_text_that_is_none, with_an_odd_text),
    *(with_arguments_that_blow, with_an_argument_that_recurses, with_notes_that_are_no_text),
    *(with_notes_that_are_no_list, with_notes_that_blow, with_notes_of_an_odd_list),
    *(with_thousands_of_notes, with_causes_that_blow, of_thousands_of_causes),
    *(of_causes_in_a_circle, its_own_cause, group_of_thousands, group_nested_hundreds_deep),
    *(group_of_groups, group_that_blows, of_a_recursion, of_odd_syntax, of_odd_names),
    *(huge_exit, huge_message, of_a_huge_name, of_an_odd_name),
]
FROM_FILES: list[Callable[[Path], BaseException]] = [
    *(from_a_deleted_file, from_a_binary_file, from_an_endless_file, from_a_folder),
    *(from_no_file, from_lines_of_megabytes),
]
ODD: list[Callable[[Path], BaseException]] = [
    *((lambda _folder, make=make: make()) for make in IN_MEMORY),
    *FROM_FILES,
]
NAMES = [make.__name__ for make in [*IN_MEMORY, *FROM_FILES]]
