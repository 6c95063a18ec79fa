"""Secret tokens: from the settings or a file, compared without telling anything.

A line of a file is a secret, and after a space the name it goes by in the history.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

# A header reaches us as text in which each byte is one character (PEP 3333).
_HEADER_ENCODING = "latin-1"


@dataclass(frozen=True, slots=True)
class Token:
    """A secret and the name it goes by, if it has one. It is never shown."""

    secret: str = field(repr=False)
    name: str = ""

    @property
    def fingerprint(self) -> str:
        """Eight characters that tell this token from others, and tell nobody what it is."""
        return sha256(self.secret.encode()).hexdigest()[:8]


@dataclass
class Tokens:
    """The tokens of one role that are valid now. The file is read again when it has changed."""

    value: str | None = field(default=None, repr=False)
    file: Path | None = None
    # What the file was when it was read, and its tokens: one value, since threads share it.
    _read: tuple[tuple[int, ...], Sequence[Token]] = field(default=((), ()), repr=False)

    def all(self) -> list[Token]:
        """Return all valid tokens. A file that is missing or cannot be read counts as empty."""
        return [*([Token(self.value)] if self.value else []), *self._from_file()]

    def match(self, presented: str) -> Token | None:
        """Return the token that a header's text is, compared in constant time with each."""
        digest = sha256(presented.encode(_HEADER_ENCODING, "replace")).digest()
        found = None
        for token in self.all():
            if hmac.compare_digest(digest, sha256(token.secret.encode()).digest()):
                found = token
        return found

    def _from_file(self) -> Sequence[Token]:
        if self.file is None:
            return ()
        try:
            status = self.file.stat()
            mark = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
            read = self._read
            if read[0] != mark:
                # Kept only if it could be read: what is in the way now may soon be gone.
                self._read = read = mark, tokens_in(self.file.read_text("utf-8-sig"))
        except (OSError, ValueError):
            return ()
        return read[1]


def read_tokens(file: Path) -> Sequence[Token]:
    """Return the tokens of a file; none if it is missing, cannot be read or is no text."""
    return Tokens(file=file).all()


def tokens_in(text: str) -> list[Token]:
    """Return the tokens of a file's text; empty lines and those that begin with # are no tokens."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    words = (line.split(maxsplit=1) for line in lines)
    return [Token(word[0], word[1].strip() if len(word) > 1 else "") for word in words if word]


def presented_token(authorization: str | None, own_header: str | None) -> str | None:
    """Return the token of `Authorization: Bearer …`, or else of `X-Heartbeat-Token`."""
    scheme, _, credentials = (authorization or "").strip().partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return (own_header or "").strip() or None
