"""Formats any exception: nothing here raises, and the length of all output is limited.

Python's own `traceback` is neither safe nor limited: it reads attributes of the exception that its
class may define in any way, and follows every cause and every member of a group.
"""

import linecache
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from textwrap import indent
from types import TracebackType
from typing import Any, TypeGuard, TypeVar

# How many items are shown. The frames are the outermost and the innermost ones.
MAX_EXCEPTIONS = 10
MAX_NOTES = 5
FIRST_FRAMES, LAST_FRAMES = 5, 15
# The longest texts that are shown, in characters.
MAX_MESSAGE = 2_000
MAX_OTHER_MESSAGE = 500
MAX_NOTE = 300
MAX_LINE = 200
MAX_NAME = 200
# A larger file is generated or is not source code, and reading it would take too long.
MAX_SOURCE_BYTES = 1_000_000
MAX_OFFSET = 100_000

UNREADABLE = "(the error could not be turned into text)"
_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"

_Error = TypeVar("_Error", bound=BaseException)
# Returns a text of limited length, without secrets if it was cut.
Clip = Callable[[str, int], str]


def is_a(error: BaseException, kind: type[_Error]) -> TypeGuard[_Error]:
    """Return whether an error is an instance of `kind`, whatever its `__class__` claims."""
    return issubclass(type(error), kind)


def type_name(kind: type) -> str:
    """Return the name of a class, whatever its metaclass defines."""
    return str(vars(type)["__name__"].__get__(kind))


def text_of(value: object) -> str:
    """Return `str(value)` as a plain string, or UNREADABLE if that raises anything."""
    try:
        return str.__getitem__(str(value), slice(None))  # plain also where it is of a subclass
    except BaseException:  # noqa: BLE001 - the class may be the flow's own and raise anything
        return UNREADABLE


def message_of(error: BaseException, clip: Clip, limit: int = MAX_MESSAGE) -> str:
    """Return the text of an exception and its notes, one below the other."""
    return "\n".join([clip(text_of(error), limit), *_notes_of(error, clip)])


def format_error(error: BaseException, message: str, clip: Clip) -> str:
    """Return the backtrace of an exception and of its causes, oldest first.

    message: the result of `message_of`.
    """
    try:
        return "".join(_Report(error, message, clip).lines(error))
    except BaseException as failure:  # noqa: BLE001 - a record without a backtrace is better than none
        return f"{type_name(type(error))}: (no backtrace: {type_name(type(failure))})\n"


class _Report:
    """The backtrace of a tree of exceptions: at most MAX_EXCEPTIONS of them."""

    def __init__(self, error: BaseException, message: str, clip: Clip) -> None:
        self.error, self.message, self.clip = error, message, clip
        self.left = MAX_EXCEPTIONS

    def lines(self, error: BaseException) -> Iterator[str]:
        """Yield the parts of the backtrace of an exception, its causes first."""
        chain = _chain_of(error)
        shown = chain[: self.left]
        if len(shown) > 1:
            shown[-1] = chain[-1]  # the cause of all the others
        blocks: list[tuple[str, str]] = []
        for each, link in shown:  # the newest first, since they may use up the limit
            if self.left > 0:
                blocks.append((link, "".join(self._one(each))))
        (_link, oldest), *newer = reversed(blocks)
        yield oldest
        if len(chain) > len(blocks):
            yield f"\n({len(chain) - len(blocks)} exceptions in between are left out)\n"
        yield from (f"{link}{block}" for link, block in newer)

    def _one(self, error: BaseException) -> Iterator[str]:
        self.left -= 1
        yield from _frames_of(error, self.clip)
        is_first = error is self.error
        message = self.message if is_first else message_of(error, self.clip, MAX_OTHER_MESSAGE)
        yield _qualified_name(type(error)) + (f": {message}\n" if message else "\n")
        if is_a(error, BaseExceptionGroup):
            yield from self._members(error)

    def _members(self, group: BaseException) -> Iterator[str]:
        members: Sequence[BaseException] = _own(group, "exceptions", BaseExceptionGroup)
        count = 0
        while count < len(members) and self.left > 0:
            yield f"  +- {count + 1} of {len(members)}\n"
            yield indent("".join(self.lines(members[count])), "  | ")
            count += 1
        if len(members) > count:
            yield f"  +- {len(members) - count} more are left out\n"


def _own(error: BaseException, name: str, kind: type = BaseException) -> Any:
    """Return a built-in attribute of an exception, even if its class overrides that."""
    return vars(kind)[name].__get__(error)


def _chain_of(error: BaseException) -> list[tuple[BaseException, str]]:
    """Return an exception and its causes, newest first, each with its link to the next one."""
    chain: list[tuple[BaseException, str]] = []
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        each, link = following, _CAUSE
        following = _own(each, "__cause__")
        if following is None and not _own(each, "__suppress_context__"):
            following, link = _own(each, "__context__"), _CONTEXT
        seen.add(id(each))
        chain.append((each, link))
    return chain


def _frames_of(error: BaseException, clip: Clip) -> Iterator[str]:
    traces: list[TracebackType] = []
    trace: TracebackType | None = _own(error, "__traceback__")
    while trace is not None:
        traces.append(trace)
        trace = trace.tb_next
    if traces:
        yield "Traceback (most recent call last):\n"
    last = max(FIRST_FRAMES, len(traces) - LAST_FRAMES)
    yield from (_format_frame(each, clip) for each in traces[:FIRST_FRAMES])
    if last > FIRST_FRAMES:
        yield f"  ({last - FIRST_FRAMES} frames in between are left out)\n"
    yield from (_format_frame(each, clip) for each in traces[last:])


def _format_frame(trace: TracebackType, clip: Clip) -> str:
    code = trace.tb_frame.f_code
    file, name = clip(code.co_filename, MAX_NAME), clip(code.co_name, MAX_NAME)
    head = f'  File "{file}", line {trace.tb_lineno}, in {name}\n'
    try:
        line = _source_line(code.co_filename, trace.tb_lineno)
        marks = _marks(trace, line) if len(line) <= MAX_LINE else ""
    except BaseException:  # noqa: BLE001 - a file that was replaced may hold anything
        return head
    shown = clip(line.strip(), MAX_LINE)
    return head + "".join(f"    {text}\n" for text in (shown, marks) if text)


def _source_line(file: str, number: int) -> str:
    """Return a line of code; an empty text where the file cannot be its source."""
    status = os.stat(file)  # noqa: PTH116 - the name may be of no file at all
    if not (stat.S_ISREG(status.st_mode) and 0 < status.st_size <= MAX_SOURCE_BYTES):
        return ""
    linecache.checkcache(file)
    return linecache.getline(file, number)


def _marks(trace: TracebackType, line: str) -> str:
    """Return the carets below the expression that failed; none below a whole line."""
    if trace.tb_lasti > MAX_OFFSET:
        return ""
    positions = trace.tb_frame.f_code.co_positions()
    number, last, *columns = next(islice(positions, trace.tb_lasti // 2, None))
    if None in columns or not number == last == trace.tb_lineno:
        return ""
    # Columns count bytes.
    begin, end = (len(line.encode()[:column].decode(errors="replace")) for column in columns)
    margin = len(line) - len(line.lstrip())
    if end - begin == len(line.strip()):
        return ""
    return " " * (begin - margin) + "^" * (end - begin)


def _notes_of(error: BaseException, clip: Clip) -> list[str]:
    try:
        notes: Any = object.__getattribute__(error, "__notes__")
    except AttributeError:
        return []
    except BaseException:  # noqa: BLE001 - as in `text_of`
        return [UNREADABLE]
    if not issubclass(type(notes), list):
        return [clip(text_of(notes), MAX_NOTE)]
    shown = list.__getitem__(notes, slice(MAX_NOTES))
    more = list.__len__(notes) - len(shown)
    lines = [clip(text_of(note), MAX_NOTE) for note in shown]
    return [*lines, f"({more} notes are left out)"] if more else lines


def _qualified_name(kind: type) -> str:
    module = vars(type)["__dict__"].__get__(kind).get("__module__")
    name = str(vars(type)["__qualname__"].__get__(kind))[:MAX_NAME]
    if type(module) is not str or module in {"builtins", "__main__"}:
        return name
    return f"{module[:MAX_NAME]}.{name}"
