"""Read CSV files of any common delimiter, row by row, with errors that name the row and the fix."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice

DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "|"}
# How many lines at the start of a file show its delimiter.
SAMPLE_LINES = 100
# The csv module's own limit, of 131,072 characters, is shorter than many texts.
FIELD_CHARACTERS = 16_777_216
csv.field_size_limit(FIELD_CHARACTERS)

# The first line by which a file names its delimiter, as Excel reads and writes it.
_NAMED_DELIMITER = re.compile(r'"?sep=(?P<delimiter>[^\r\n]?)"?\r?\n?', re.IGNORECASE)
# How a byte that is not UTF-8 is decoded with "surrogateescape". A NUL is decoded as itself.
_NOT_TEXT = re.compile("[\0\udc80-\udcff]")

# What to do about each error of the csv module, by words of its message.
_FIXES = {
    "unexpected end of data": "a quote is not closed; close it before the end of its value",
    "expected after": 'text follows a closing quote; write a quote inside a value as ""',
    "new-line character": "a line ends with CR alone; end lines with LF or CRLF",
    "field limit": f"a value is longer than {FIELD_CHARACTERS:,} characters; "
    "split it, or close the quote at its start",
}


class InvalidCsvError(ValueError):
    """Files that cannot be loaded: one argument for each problem, with its row and the fix."""

    def __str__(self) -> str:
        """Return the problems, one a line."""
        return "\n".join(self.args)


def read_rows(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with its number; the header is row 1. A blank row is an empty list.

    The delimiter is the one that a first line such as `sep=;` names, or the one that divides the
    header: a comma, a semicolon, a tab or `|`.

    Raises InvalidCsvError if the delimiter is unclear, or where a row cannot be read.
    """
    lines = iter(lines)
    sample = list(islice(lines, SAMPLE_LINES))
    if sample and (named := _NAMED_DELIMITER.fullmatch(sample[0])):
        delimiter = named["delimiter"]
        if not delimiter or delimiter in '" ':
            message = "row 1: sep= names no delimiter; write a line such as sep=; or remove it"
            raise InvalidCsvError(message)
        sample = sample[1:]
    else:
        delimiter = _find_delimiter(sample)
    number = 0
    try:
        for number, row in enumerate(_reader(chain(sample, lines), delimiter), start=1):
            yield number, row
    except csv.Error as error:
        fix = next((fix for words, fix in _FIXES.items() if words in str(error)), str(error))
        raise InvalidCsvError(f"row {number + 1}: {fix}") from error


def find_problems(lines: Iterable[str]) -> Iterator[str]:
    """Yield each problem of a file, with its row and the fix."""
    columns: list[str] = []
    try:
        for number, row in read_rows(lines):
            if not_text := _NOT_TEXT.search("".join(row)):
                byte = ord(not_text[0]) & 0xFF
                yield f"row {number}: byte 0x{byte:02x} is not text; save the file as UTF-8"
            if not columns:
                columns = row
                yield from (f"row {number}: {problem}" for problem in _header_problems(columns))
            elif row and len(row) != len(columns):
                fix = "write one for each column, and quote values with a delimiter"
                yield f"row {number}: {len(row)} instead of {len(columns)} fields; {fix}"
    except InvalidCsvError as error:
        yield from error.args
        return
    if not columns:
        yield "row 1: the file is empty; begin it with the names of the columns"


def _reader(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=delimiter, strict=True)


def _find_delimiter(sample: list[str]) -> str:
    """Return the delimiter of the header, or a comma where there is only one column.

    Where several characters divide the header, it is the one that divides all rows alike.
    """
    counts = {delimiter: _count_fields(sample, delimiter) for delimiter in DELIMITERS}
    possible = [each for each, fields in counts.items() if fields and fields[0] > 1]
    if len(possible) > 1:
        alike = [each for each in possible if len(set(counts[each])) == 1]
        if len(alike) != 1:
            names = " or ".join(DELIMITERS[each] for each in alike or possible)
            fix = 'add a first line such as "sep=;" without the quotes'
            message = f"row 1: the delimiter may be {names}; {fix}"
            raise InvalidCsvError(message)
        possible = alike
    return possible[0] if possible else ","


def _count_fields(sample: list[str], delimiter: str) -> list[int]:
    """Count the fields of each row that is not blank, as far as the rows can be read."""
    counts: list[int] = []
    # An error is reported where the whole file is read; the sample may also end within a value.
    with suppress(csv.Error):
        counts.extend(len(row) for row in _reader(sample, delimiter) if row)
    return counts


def _header_problems(columns: list[str]) -> Iterator[str]:
    for column, count in Counter(columns).items():
        if not column.strip():
            yield "a column has no name; give it one"
        elif count > 1:
            yield f"{count} columns are called {column!r:.80}; rename them"
