"""Long texts of runs, cut for a page, and backtraces folded to the frames of the user."""

import re
from collections.abc import Iterable
from itertools import groupby

from markupsafe import escape

from ...printing import printable
from ...redaction import LONGEST_BACKTRACE, redact, shorten

# How many bytes of HTML a text may become: escapes are up to ten times as long.
MOST_BYTES = 24_000
# The engine in this project, whichever folder it is installed in.
_ENGINE = __package__.partition(".optional")[0].replace(".", "/")
_FRAME = re.compile(r'[\s|]*File "(?P<file>.*)", line \d+, in ')
_LIBRARY = re.compile(r"(site|dist)-packages/|/lib(64)?/python3\.\d+/|^<frozen ")


def bounded(text: str, secrets: Iterable[str]) -> str:
    """Return a text of any length without secrets, cut so that its HTML is at most MOST_BYTES."""
    limit = LONGEST_BACKTRACE
    shown = redact(text, secrets, limit)
    while (size := len(escape(printable(shown, "\n\t")).encode())) > MOST_BYTES:
        limit = min(limit // 2, limit * MOST_BYTES // size)
        shown = shorten(shown, limit)
    return shown


def fold(backtrace: str, secrets: Iterable[str]) -> list[tuple[int, str]]:
    """Return the parts of a backtrace in order, each with its number of foreign frames.

    Foreign are the frames of libraries and of the engine. The other parts have the number 0.
    """
    engine = f"/{redact(_ENGINE, secrets)}/"  # as in the backtrace, which has no secrets
    lines: list[tuple[bool, bool, str]] = []
    is_foreign = False
    for line in backtrace.splitlines(keepends=True):
        frame = _FRAME.match(line)
        if frame:
            file = frame["file"].replace("\\", "/")
            is_foreign = engine in file or _LIBRARY.search(file) is not None
        elif not re.match(r"[\s|]*    ", line):
            is_foreign = False
        lines.append((is_foreign, frame is not None, line))
    parts = []
    for foreign, group in groupby(lines, key=lambda line: line[0]):
        found = [*group]
        count = sum(starts for _foreign, starts, _line in found) if foreign else 0
        parts.append((count, "".join(line for _foreign, _starts, line in found)))
    return parts
