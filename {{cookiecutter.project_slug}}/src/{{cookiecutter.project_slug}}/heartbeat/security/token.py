"""Secret tokens from the settings or a file, compared in constant time.

A line of a file is a secret and, after a space, the name of the token in the history.
"""

import hmac
import logging
import re
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

# A header reaches us as text in which each byte is one character (PEP 3333).
_HEADER_ENCODING = "latin-1"
# A file without a line end at its end is complete if it was not changed for these seconds.
SETTLE_SECONDS = 3.0
SHORTEST_SECRET = 16
FEWEST_CHARACTERS = 5
# Placeholders from examples, compared in lower case and as letters only.
PLACEHOLDERS = frozenset(
    {"beattoken", "changeme", "changethis", "example", "insertyourtokenhere", "mysecret"}
    | {"mytoken", "none", "null", "password", "placeholder", "replaceme", "secret", "test"}
    | {"todo", "token", "undefined", "yoursecret", "yourtoken", "yourtokenhere"}
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Token:
    """A secret, which is never shown, and its name, if it has one."""

    secret: str = field(repr=False)
    name: str = ""

    @property
    def fingerprint(self) -> str:
        """Eight characters that identify this token and do not disclose it."""
        return sha256(self.secret.encode()).hexdigest()[:8]


@dataclass
class Tokens:
    """The tokens of one role that are valid now. The file is read again when it has changed.

    weakness: returns why a secret must not be used, or None. While the file is invalid, `problem`
    names the reason, and the tokens that were read last stay valid.
    """

    value: str | None = field(default=None, repr=False)
    file: Path | None = None
    weakness: Callable[[str], str | None] = lambda _secret: None
    problem: str = field(default="", init=False)
    # The state of the file when it was read, and its tokens. One value, which threads replace at
    # once.
    _read: tuple[tuple[int, ...], Sequence[Token]] = field(default=((), ()), repr=False)

    def all(self) -> list[Token]:
        """Return all valid tokens. A missing file counts as empty."""
        return [*([Token(self.value)] if self.value else []), *self._from_file()]

    def match(self, presented: str) -> Token | None:
        """Return the token that a header presents. Each is compared in constant time."""
        digest = sha256(presented.encode(_HEADER_ENCODING, "replace")).digest()
        found = None
        for token in self.all():
            if hmac.compare_digest(digest, sha256(token.secret.encode()).digest()):
                found = token
        return found

    def _from_file(self) -> Sequence[Token]:
        if self.file is None:
            return ()
        problem = ""
        try:
            status = self.file.stat()
            mark = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
            if self._read[0] != mark:
                text = _read_regular(self.file)
                # Without its last line end, the file may be in the middle of being written.
                if text.endswith("\n") or time.time() - status.st_mtime > SETTLE_SECONDS:
                    self._read = mark, self._checked(text)
        except (FileNotFoundError, NotADirectoryError):
            self._read = ((), ())
        except (OSError, ValueError) as error:
            problem = str(error)
        if problem and problem != self.problem:
            log.error("%s: %s: the tokens that were read last stay valid", self.file, problem)
        self.problem = problem
        return self._read[1]

    def _checked(self, text: str) -> list[Token]:
        tokens = tokens_in(text)
        for token in tokens:
            if reason := self.weakness(token.secret):
                raise ValueError(f"the token {token.fingerprint} {reason}")
        return tokens


def _read_regular(file: Path) -> str:
    """Return the text of a regular file. Raises OSError, or ValueError with the reason."""
    # Reading a FIFO would wait for a writer.
    if not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("is not a regular file")
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8") from error


def read_tokens(file: Path) -> Sequence[Token]:
    """Return the tokens of a file; none if it is missing or cannot be read as text."""
    try:
        return tokens_in(_read_regular(file))
    except (OSError, ValueError):
        return ()


def tokens_in(text: str) -> list[Token]:
    """Return the tokens of a file's text. Empty lines and lines that begin with # are skipped."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    words = (line.split(maxsplit=1) for line in lines)
    return [Token(word[0], word[1].strip() if len(word) > 1 else "") for word in words if word]


def presented_token(authorization: str | None, own_header: str | None) -> str | None:
    """Return the token of `Authorization: Bearer …`, or else of `X-Heartbeat-Token`."""
    scheme, _, credentials = (authorization or "").strip().partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return (own_header or "").strip() or None


def weakness(secret: str) -> str | None:
    """Return why a secret must not be used outside development; None for a good one."""
    if re.sub("[^a-z]", "", secret.lower()) in PLACEHOLDERS or len(set(secret)) < FEWEST_CHARACTERS:
        return "is a placeholder"
    if len(secret) < SHORTEST_SECRET:
        return f"is shorter than {SHORTEST_SECRET} characters"
    return None
