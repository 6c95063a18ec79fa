"""The preferences of a caller: the header `Prefer` (RFC 7240)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

LONGEST_WAIT = 300

# A comma or a semicolon in quotes does not separate. An open quote ends with the text.
_QUOTED = r'"(?:[^"\\]|\\.?)*+"?'
_PREFERENCE = re.compile(rf'(?:[^",]|{_QUOTED})+')
_WITHOUT_PARAMETERS = re.compile(rf'(?:[^";]|{_QUOTED})+')


@dataclass(frozen=True, slots=True)
class Preferences:
    """The preferences that a beat supports. `wait` is in seconds."""

    respond_async: bool = False
    wait: int | None = None
    representation: bool = False

    def applied(self) -> str:
        """Return the value of `Preference-Applied`; empty if there is none."""
        words = [
            "respond-async" if self.respond_async else "",
            "" if self.wait is None else f"wait={self.wait}",
            "return=representation" if self.representation else "",
        ]
        return ", ".join(word for word in words if word)


def parse_preferences(headers: Iterable[str]) -> Preferences:
    """Return the preferences of the headers `Prefer`.

    According to RFC 7240, the first of equal preferences counts, and unknown or invalid ones are
    ignored. `wait` is limited to 300 seconds.
    """
    found: dict[str, str] = {}
    for preference in _PREFERENCE.findall(",".join(headers)):
        first = _WITHOUT_PARAMETERS.match(preference)
        name, _, value = first[0].partition("=") if first else ("", "", "")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = found.get("wait", "")
    return Preferences(
        respond_async=found.get("respond-async") == "",
        # At most nine digits: Python refuses to read thousands of them.
        wait=min(int(wait[:9]), LONGEST_WAIT) if wait.isascii() and wait.isdigit() else None,
        representation=found.get("return", "").lower() == "representation",
    )
