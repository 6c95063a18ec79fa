"""Removes secrets from text before it is stored or shown."""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from .escaping import printable
from .secret_patterns import MAX_WHOLE, PATTERNS, PATTERNS_BEFORE_CUT
from .tracebacks import format_error, message_of, type_name

if TYPE_CHECKING:  # `startup`, which reports a missing package, needs this module
    from sqlalchemy import URL

# Limits that a history page can show, and that fit a TEXT column of MySQL in four-byte characters.
LONGEST_MESSAGE = 2_000
LONGEST_BACKTRACE = 12_000
LONGEST_TYPE = 200
LONGEST_IN_LINE = 300
# How many characters around the shown part are redacted with it: enough for the name of a secret
# and the spaces around its colon.
CONTEXT = 1_000

_MASK = "***"
# What SQLAlchemy adds to the message of a driver: the statement, its parameters, and advice.
_SQLALCHEMY = re.compile(
    r"\s\[SQL: (?:.*\(Background on this error at: \S+\)|.*)"
    r"|\nLINE \d+: [^\n]*(?:\n *\^)?"  # psycopg's place in the statement
    r"|\(Background on this error at: \S+\)"
    r"|\A\(raised as a result of [^)]*\)",
    re.DOTALL,
)
_CUT = "\n... cut here ...\n"
# Shorter secrets would be found in any text.
SHORTEST_SECRET = 6


def redact(text: str, secrets: Iterable[str] = (), limit: int = LONGEST_BACKTRACE) -> str:
    """Return `text` without secrets, fit for any database, cut to `limit` characters.

    Masked are the userinfo of URLs, authorization and cookie headers, signatures of URLs, JSON Web
    Tokens, private keys, the values of names that contain password, secret, token, key, pwd or
    credential, and each of `secrets`, as it stands and encoded. NUL characters and
    lone surrogates, which databases refuse, are replaced; other control characters, except new
    lines and tabs, are escaped. A cut keeps the beginning and the end; of a very long text it keeps
    whole lines at the end, and nothing of a single line.
    """
    known = [form for secret in secrets for form in _forms(secret)]
    if len(text) <= min(10 * limit, MAX_WHOLE):
        return shorten(_storable(_mask(text, known, PATTERNS)), limit)
    tail = _tail(text, (limit - len(_CUT)) // 2, known)
    return _head(text, limit - len(_CUT) - len(tail), known) + _CUT + tail


@lru_cache(maxsize=100)
def _forms(secret: str) -> list[str]:
    """Return a secret as it stands and as URLs, JSON, Python and base64 show it, longest first."""
    if len(secret) < SHORTEST_SECRET:
        return []
    content = secret.encode("utf-8", "replace")
    forms = {secret, quote(secret, safe="", errors="replace"), quote_plus(secret, errors="replace")}
    forms |= {json.dumps(secret)[1:-1], repr(secret)[1:-1], b64encode(content).decode()}
    return sorted(forms, key=len, reverse=True)


def _mask(text: str, secrets: Iterable[str], patterns: Iterable[re.Pattern[str]]) -> str:
    for secret in secrets:
        text = text.replace(secret, _MASK)
    for pattern in patterns:
        text = pattern.sub(rf"\1{_MASK}", text)
    return text


def _storable(text: str) -> str:
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}").replace("\r\n", "\n")
    return printable(text.encode("utf-8", "replace").decode("utf-8"), kept="\n\t")


def _head(text: str, limit: int, secrets: Sequence[str]) -> str:
    """Return the beginning of a text that is cut, without a part of a secret at the cut."""
    window = text[: limit + CONTEXT]
    for secret in secrets:
        lengths = range(1, len(secret) + 1)
        part = max((n for n in lengths if window.endswith(secret[:n])), default=0)
        if part:
            window = window[:-part] + _MASK
    return _storable(_mask(window, secrets, PATTERNS_BEFORE_CUT))[:limit]


def _tail(text: str, limit: int, secrets: Sequence[str]) -> str:
    """Return whole lines from the end of a text that is cut.

    A part of a line is left out, since it may be the end of a secret.
    """
    window = text[-4 * limit - CONTEXT :]
    begin = window.rfind("\n", CONTEXT, len(window) - limit)
    if begin < 0:
        begin = window.find("\n", CONTEXT)
    if begin < 0:
        return ""
    lines = window.count("\n", 0, begin + 1)
    return _storable(_mask(window, secrets, PATTERNS).split("\n", lines)[-1])[-limit:]


def without_password(url: "URL") -> str:
    """Return a URL without its password, and without its query, which may hold one as well."""
    return url.set(query={}).render_as_string(hide_password=True)


def shorten(text: str, limit: int) -> str:
    """Return `text` with its middle left out where it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    half = (limit - 20) // 2
    return f"{text[:half]}{_CUT}{text[-half:]}"


def describe_error(error: BaseException, secrets: Sequence[str] = ()) -> dict[str, str]:
    """Return the columns that keep an error: `error_type`, `error_message`, `error_backtrace`.

    The backtrace has the lines of code, never the values of variables. Never raises,
    whatever the error is made of.
    """

    def clip(text: str, limit: int) -> str:
        return text if len(text) <= limit else redact(text, secrets, limit)

    message = message_of(error, clip)
    backtrace = format_error(error, message, clip)
    return {
        "error_type": redact(type_name(type(error)), secrets, LONGEST_TYPE),
        "error_message": redact(message, secrets, LONGEST_MESSAGE),
        "error_backtrace": redact(backtrace, secrets, LONGEST_BACKTRACE),
    }


def as_ascii(values: Mapping[str, Any]) -> dict[str, Any]:
    r"""Return a run's columns with ASCII texts, for a database that refuses other characters.

    The other characters become Python's escapes, such as \U0001f600.
    """
    limits = {"error_type": LONGEST_TYPE, "error_message": LONGEST_MESSAGE}
    limits |= dict.fromkeys(("error_backtrace", "log"), LONGEST_BACKTRACE)
    texts = {name: values[name] for name in limits if values.get(name)}
    escaped = {name: shorten(escape(text, "ascii"), limits[name]) for name, text in texts.items()}
    return {**values, **escaped}


def escape(text: str, codec: str) -> str:
    """Return `text` with Python's escapes for NUL and the characters that `codec` cannot encode."""
    return text.replace("\0", "\\x00").encode(codec, "backslashreplace").decode(codec)


def error_of(kind: str | None, message: str | None) -> str | None:
    """Return a run's error as one text: its type alone where it has no message."""
    return f"{kind}: {message}" if message else kind


def short_error(text: str) -> str:
    """Return an error's message as a part of a log line: short, and without a statement's SQL."""
    line = " ".join(_SQLALCHEMY.sub("", text).split())
    return printable(line if len(line) <= LONGEST_IN_LINE else f"{line[: LONGEST_IN_LINE - 3]}...")


def error_text(error: BaseException, secrets: Sequence[str] = ()) -> str:
    """Return the type and the message of an error, without secrets, in one line."""
    details = describe_error(error, secrets)
    text = error_of(details["error_type"], details["error_message"])
    return " ".join(str(text).split())
