"""Text in which no character moves the cursor of a terminal, or forges a line of a log."""

import re
import unicodedata

# Controls, formats (directions, zero width), lone surrogates, and two kinds of line ends.
_ESCAPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_MAYBE_ESCAPED = re.compile(r"[^\w\x20-\x7e]")


def printable(text: str, kept: str = "") -> str:
    r"""Return `text` with Python's escapes, such as \x1b, for control and format characters.

    kept: the characters that stay as they are.
    """

    def escape(match: re.Match[str]) -> str:
        char = match[0]
        if char in kept or unicodedata.category(char) not in _ESCAPED:
            return char
        return char.encode("unicode_escape").decode()

    return text if text.isprintable() else _MAYBE_ESCAPED.sub(escape, text)
