"""What a caller prefers: the header `Prefer` of RFC 7240, as far as a beat can heed it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

LONGEST_WAIT = 300

# A comma or a semicolon within quotes parts nothing; a quote that is not closed goes to the end.
_QUOTED = r'"(?:[^"\\]|\\.?)*+"?'
_PREFERENCE = re.compile(rf'(?:[^",]|{_QUOTED})+')
_WITHOUT_PARAMETERS = re.compile(rf'(?:[^";]|{_QUOTED})+')


@dataclass(frozen=True, slots=True)
class Preferences:
    """The preferences that a beat knows; `wait` is in seconds."""

    respond_async: bool = False
    wait: int | None = None
    representation: bool = False

    def applied(self) -> str:
        """Return the value of `Preference-Applied`, empty if nothing was."""
        words = [
            "respond-async" if self.respond_async else "",
            "" if self.wait is None else f"wait={self.wait}",
            "return=representation" if self.representation else "",
        ]
        return ", ".join(word for word in words if word)


def parse_preferences(headers: Iterable[str]) -> Preferences:
    """Return what the headers `Prefer` ask for.

    As RFC 7240 says: of one preference the first counts, and what is unknown or cannot be read is
    passed over. A longer `wait` than 300 seconds is taken for 300.
    """
    found: dict[str, str] = {}
    for preference in _PREFERENCE.findall(",".join(headers)):
        first = _WITHOUT_PARAMETERS.match(preference)
        name, _, value = first[0].partition("=") if first else ("", "", "")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = found.get("wait", "")
    return Preferences(
        respond_async=found.get("respond-async") == "",
        # No more digits are read than that: Python refuses to read thousands.
        wait=min(int(wait[:9]), LONGEST_WAIT) if wait.isascii() and wait.isdigit() else None,
        representation=found.get("return", "").lower() == "representation",
    )
