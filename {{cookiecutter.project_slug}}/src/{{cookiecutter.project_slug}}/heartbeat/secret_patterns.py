"""The patterns of secrets in text."""

import re

# A text is redacted as a whole up to ten times its limit, and up to this length. Of a longer text
# only the part that is shown is redacted, so that the costs are limited.
MAX_WHOLE = 40_000
_SPACE = r"\s{0,200}"
_SPACE_BETWEEN = r"\s{1,200}"
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
    a line break: `redaction` relies on that.
    """
    after_userinfo = r"@|\Z" if is_cut else "@"
    short_token = rf"|{_TOKEN}+\Z" if is_cut else ""
    patterns = (
        # user:password@ or token@ in a URL; the host stays: it is needed to understand the error
        rf"(\b[a-z][a-z0-9+.-]{{0,30}}://)[^\s/@:]*(?::[^\s/]*)?(?={after_userinfo})",
        # a scheme of any name, and parameters such as Digest's
        rf"({_HEADER})(?:[\w-]{{1,40}}[ \t]+)?{_CREDENTIALS}(?:,[ \t]*{_CREDENTIALS})*",
        rf"(\b(?:bearer|basic)\s{{1,200}})(?:{_TOKEN}{{8,}}{short_token})",
        # a private key; once it is cut, its lines look like any other text
        rf"(-----BEGIN [A-Z0-9 ]{{0,40}}PRIVATE KEY-----)(?:[^-]|-(?!----)){{0,{MAX_WHOLE}}}",
        rf"(\b(?:set-)?cookie{_IS}{_BEFORE_QUOTE}[\"']?)[^\"'\r\n]*",
        r"()\beyJ[\w-]{8,}(?:\.[\w-]*){0,2}",  # a JSON Web Token
        r"([?&][\w-]{0,40}sig(?:nature)?=)[^\s&\"']*",
        rf"(--[\w-]{{0,40}}{_WORD}{_SPACE_BETWEEN})(?!-)[^\s\"']+",
        # in quotes, closed or not; a backslash escapes the next quote
        rf"({_NAME}{_BEFORE_QUOTE}\")(?:[^\"\\\r\n]|\\.)*",
        rf"({_NAME}{_BEFORE_QUOTE}')(?:[^'\\\r\n]|\\.)*",
        # without the punctuation around it; MySQL's "(using password: YES)" has no value
        rf"({_NAME})(?!{_BEFORE_QUOTE}[\"']|(?:yes|no)\){_END})(?:{_VALUE}*{_LAST}|{_VALUE}+)",
    )
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)


PATTERNS, PATTERNS_BEFORE_CUT = _patterns(is_cut=False), _patterns(is_cut=True)
