"""Takes secrets out of text before it is stored or shown. Used wherever an error is kept."""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from .printing import printable
from .tracebacks import format_error, message_of, type_name

if TYPE_CHECKING:  # `startup`, which reports a missing package, needs this module
    from sqlalchemy import URL

# What a history page can show, and what fits a TEXT column of MySQL in four-byte characters.
LONGEST_MESSAGE = 2_000
LONGEST_BACKTRACE = 12_000
LONGEST_TYPE = 200
# A text is redacted as a whole up to ten times its limit, and up to this length; of a longer one
# only what is shown, so that a text of any size costs no more.
MAX_WHOLE = 40_000
# How much around the part that is shown is read as well. Before it this must have room for a name
# and the spaces around its colon.
CONTEXT = 1_000

_MASK = "***"
_CUT = "\n... cut here ...\n"
_SPACE = r"\s{0,200}"
_SPACE_BETWEEN = r"\s{1,200}"
# Own secrets that are shorter would be found in any text.
SHORTEST_SECRET = 6
# Names of secrets, such as AWS_SECRET_ACCESS_KEY or password.default. Not class names: KeyError.
_KEY = r"(?:\b|[_-]|api|access|account|auth|master|private|secret|shared|signing)key"
_WORD = rf"(?:password|passwd|pwd|secret|token|credential|{_KEY})s?(?:[_.-]\w{{1,40}}){{0,4}}"
# The name and its value are a pair such as a=b or "a": "b", or follow each other in a list.
_IS = rf"(?:[\"']?{_SPACE}[:=]|[\"'],){_SPACE}"
_NAME = rf"{_WORD}{_IS}"
_BEFORE_QUOTE = r"[bru]?[bru]?"
_HEADER = rf"(?:proxy-)?authorization{_IS}{_BEFORE_QUOTE}[\"']?"
_CREDENTIALS = r"(?:\"[^\"\r\n]*\"?|[^\s\"',;])+"
_VALUE, _LAST, _END = r"[^\s\"'&,;]", r"[^\s\"'&,;)\]}>:]", r"(?:[\s\"'&,;)\]}>:]|\Z)"
_TOKEN = r"[\w.~+/=-]"  # noqa: S105 - the characters of one


def _patterns(*, is_cut: bool) -> tuple[re.Pattern[str], ...]:
    """Compile the patterns of secrets for a whole text, or for one whose end is cut off.

    Each takes time in proportion to the text. Only the spaces between a name and its value may hold
    a line break: `_tail` relies on that.
    """
    after_userinfo = r"@|\Z" if is_cut else "@"
    short_token = rf"|{_TOKEN}+\Z" if is_cut else ""
    patterns = (
        # user:password@ or token@ in a URL; the host stays, since it tells what was called
        rf"(\b[a-z][a-z0-9+.-]{{0,30}}://)[^\s/@:]*(?::[^\s/]*)?(?={after_userinfo})",
        # a scheme of any name, and parameters such as Digest's
        rf"({_HEADER})(?:[\w-]{{1,40}}[ \t]+)?{_CREDENTIALS}(?:,[ \t]*{_CREDENTIALS})*",
        rf"(\b(?:bearer|basic)\s{{1,200}})(?:{_TOKEN}{{8,}}{short_token})",
        # a private key; what its lines hold cannot be told from other text once it is cut
        rf"(-----BEGIN [A-Z0-9 ]{{0,40}}PRIVATE KEY-----)(?:[^-]|-(?!----)){{0,{MAX_WHOLE}}}",
        rf"(\b(?:set-)?cookie{_IS}{_BEFORE_QUOTE}[\"']?)[^\"'\r\n]*",
        r"()\beyJ[\w-]{8,}(?:\.[\w-]*){0,2}",  # a JSON Web Token
        r"([?&][\w-]{0,40}sig(?:nature)?=)[^\s&\"']*",
        rf"(--[\w-]{{0,40}}{_WORD}{_SPACE_BETWEEN})(?!-)[^\s\"']+",
        # in quotes, also where they are not closed; a backslash keeps the next one inside
        rf"({_NAME}{_BEFORE_QUOTE}\")(?:[^\"\\\r\n]|\\.)*",
        rf"({_NAME}{_BEFORE_QUOTE}')(?:[^'\\\r\n]|\\.)*",
        # without what closes the sentence around it; MySQL's "(using password: YES)" has no value
        rf"({_NAME})(?!{_BEFORE_QUOTE}[\"']|(?:yes|no)\){_END})(?:{_VALUE}*{_LAST}|{_VALUE}+)",
    )
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)


_PATTERNS, _PATTERNS_BEFORE_CUT = _patterns(is_cut=False), _patterns(is_cut=True)


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
        return shorten(_storable(_mask(text, known, _PATTERNS)), limit)
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
    """Return the beginning of a text that is cut: no part of a secret at the cut is left."""
    window = text[: limit + CONTEXT]
    for secret in secrets:
        lengths = range(min(len(secret), len(window)), 0, -1)
        if part := next((n for n in lengths if window.endswith(secret[:n])), 0):
            window = window[:-part] + _MASK
    return _storable(_mask(window, secrets, _PATTERNS_BEFORE_CUT))[:limit]


def _tail(text: str, limit: int, secrets: Sequence[str]) -> str:
    """Return the end of a text that is cut, from a line break on, before which all was read.

    What stands before it on its own line may belong to a secret that began earlier.
    """
    window = text[-4 * limit - CONTEXT :]
    begin = window.rfind("\n", CONTEXT, len(window) - limit)
    if begin < 0:
        begin = window.find("\n", CONTEXT)
    if begin < 0:
        return ""
    lines = window.count("\n", 0, begin + 1)
    return _storable(_mask(window, secrets, _PATTERNS).split("\n", lines)[-1])[-limit:]


def without_password(url: "URL") -> str:
    """Return a URL without its password, and without its query, which may hold one as well."""
    return url.set(query={}).render_as_string(hide_password=True)


def shorten(text: str, limit: int) -> str:
    """Return `text` with its middle left out where it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    half = (limit - 20) // 2
    return f"{text[:half]}\n... cut here ...\n{text[-half:]}"


def describe_error(error: BaseException, secrets: Sequence[str] = ()) -> dict[str, str]:
    """Return the columns that keep an error: `error_type`, `error_message`, `error_backtrace`.

    The backtrace has the lines of code, never the values of variables. Nothing that the error is
    made of can make this raise.
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
    r"""Return a run's columns with texts of ASCII alone, for a database that refused others.

    The other characters become Python's escapes, such as \U0001f600.
    """
    limits = {"error_type": LONGEST_TYPE, "error_message": LONGEST_MESSAGE}
    limits |= dict.fromkeys(("error_backtrace", "log"), LONGEST_BACKTRACE)
    escaped = {
        name: shorten(escape(values[name], "ascii"), limit)
        for name, limit in limits.items()
        if values.get(name)
    }
    return {**values, **escaped}


def escape(text: str, codec: str) -> str:
    """Return a text with what a codec of Python lacks, and NUL, as Python's escapes."""
    return text.replace("\0", "\\x00").encode(codec, "backslashreplace").decode(codec)


def error_of(kind: str | None, message: str | None) -> str | None:
    """Return a run's error as one text: its type alone where it says nothing."""
    return f"{kind}: {message}" if message else kind


def error_text(error: BaseException) -> str:
    """Return the type and the message of an error, without secrets, in one line."""
    details = describe_error(error)
    text = error_of(details["error_type"], details["error_message"])
    return " ".join(str(text).split())
