"""Secrets that are too easy to guess."""

import re

SHORTEST_SECRET = 16
FEWEST_CHARACTERS = 5
# Placeholders from examples, compared in lower case and as letters only.
PLACEHOLDERS = frozenset(
    {"beattoken", "changeme", "changethis", "example", "insertyourtokenhere", "mysecret"}
    | {"mytoken", "none", "null", "password", "placeholder", "replaceme", "secret", "test"}
    | {"todo", "token", "undefined", "yoursecret", "yourtoken", "yourtokenhere"}
)


def weakness(secret: str) -> str | None:
    """Return why a secret must not be used outside development; None for a good one."""
    if re.sub("[^a-z]", "", secret.lower()) in PLACEHOLDERS or len(set(secret)) < FEWEST_CHARACTERS:
        return "is a placeholder"
    if len(secret) < SHORTEST_SECRET:
        return f"is shorter than {SHORTEST_SECRET} characters"
    return None
