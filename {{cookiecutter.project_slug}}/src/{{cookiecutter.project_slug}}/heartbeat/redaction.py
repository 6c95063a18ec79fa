"""Takes secrets out of text before it is stored or shown. Used wherever an error is kept."""

import re
import traceback
from collections.abc import Iterable, Sequence

from sqlalchemy import URL

# What a history page can show, and what fits a TEXT column of MySQL in four-byte characters.
LONGEST_MESSAGE = 2_000
LONGEST_BACKTRACE = 12_000

_MASK = "***"
# Each takes time in proportion to the text, since what a flow raises can be a whole document.
_NAME = r"(?:password|passwd|secret|token|api[_-]?key)[\"']?\s*[:=]\s*"
_BEFORE_QUOTE = r"[bru]?[bru]?"
_HEADER = r"(?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?"
_CREDENTIALS = r"(?:\"[^\"]*\"|[^\s\"',;])+"
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # user:password@ or token@ in a URL; the host stays, since it tells what was called
        r"(\b[a-z][a-z0-9+.-]{0,30}://)[^\s/@:]*(?::[^\s/]*)?(?=@)",
        # a scheme of any name, and parameters such as Digest's
        rf"({_HEADER})(?:[\w-]{{1,40}}[ \t]+)?{_CREDENTIALS}(?:,[ \t]*{_CREDENTIALS})*",
        r"(\b(?:bearer|basic)\s+)[\w.~+/=-]{8,}",
        # in quotes, also where they are not closed; a backslash keeps the next one inside
        rf"({_NAME}{_BEFORE_QUOTE}\")(?:[^\"\\\r\n]|\\.)*",
        rf"({_NAME}{_BEFORE_QUOTE}')(?:[^'\\\r\n]|\\.)*",
        rf"({_NAME})(?!{_BEFORE_QUOTE}[\"'])[^\s\"'&,;]+",
    )
)


def redact(text: str, secrets: Iterable[str] = (), limit: int | None = None) -> str:
    """Return `text` without secrets, fit for any database, cut to `limit` characters.

    Masked are the userinfo of URLs, authorization headers, the values of names that end in
    password, secret, token or api_key, and each of `secrets` as it stands. NUL characters and
    lone surrogates, which databases refuse, are replaced. A cut keeps the beginning and the end.
    """
    for secret in filter(None, secrets):
        text = text.replace(secret, _MASK)
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\1{_MASK}", text)
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if limit is None else shorten(text, limit)


def shown(url: URL) -> str:
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

    The backtrace has the lines of code, never the values of variables.
    """
    try:
        message = "\n".join([str(error), *getattr(error, "__notes__", [])])
    except BaseException:  # noqa: BLE001 - a flow's own error class may raise anything here
        message = "(the error could not be turned into text)"
    lines = traceback.format_exception(error, chain=True)
    return {
        "error_type": shorten(type(error).__name__, 200),
        "error_message": redact(message, secrets, LONGEST_MESSAGE),
        "error_backtrace": redact("".join(lines), secrets, LONGEST_BACKTRACE),
    }


def error_of(kind: str | None, message: str | None) -> str | None:
    """Return a run's error as one text: its type alone where it says nothing."""
    return f"{kind}: {message}" if message else kind
