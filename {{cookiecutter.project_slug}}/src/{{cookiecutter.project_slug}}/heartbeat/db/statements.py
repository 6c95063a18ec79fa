"""Which statements begin or end a transaction, whatever their spelling and the comments in them."""

import re
from functools import lru_cache

from sqlalchemy import Engine

from .backend import Backend
from .backends import backend_of

_CONTROL = re.compile(
    r"""\s*(
        (?: COMMIT | ABORT | END | XA
          | BEGIN (?! \s+ NOT \s+ ATOMIC)
          | ROLLBACK (?! \s+ (?: WORK \s+ | TRANSACTION \s+ )? TO \b)
          | (?: START | PREPARE ) \s+ TRANSACTION
          | (?: LOCK | UNLOCK ) \s+ TABLES
        ) \b
        | SET \b .* \b autocommit (?= \s* :? =)
    )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_MAY_CONTROL = re.compile("commit|abort|begin|end|xa|rollback|transaction|tables", re.IGNORECASE)


def transaction_control(engine: Engine, statement: str) -> str | None:
    """Return the words of a statement that would begin or end a transaction; None if it would not.

    Savepoints are allowed: they take effect with their transaction.
    """
    return _control(backend_of(engine), statement) if _MAY_CONTROL.search(statement) else None


def implicit_commit(engine: Engine, statement: str) -> str | None:
    """Return the words of a statement that may commit by itself, as DDL does on MySQL; or None."""
    backend = backend_of(engine)
    return _match(backend, backend.commits_itself, statement) if backend.commits_itself else None


@lru_cache(maxsize=1_000)
def _control(backend: Backend, statement: str) -> str | None:
    return _match(backend, _CONTROL, statement)


def _match(backend: Backend, pattern: re.Pattern[str], statement: str) -> str | None:
    for each in backend.statements_in(code_of(backend, statement)):
        if match := pattern.match(each):
            return " ".join(match[1].upper().split())
    return None


def code_of(backend: Backend, statement: str) -> str:
    """Return a statement without its comments, strings and quoted names."""
    return re.sub(backend.not_code, _executed, statement, flags=re.DOTALL)


def _executed(match: re.Match[str]) -> str:
    """Return the code in a comment that the server executes, such as MySQL's `/*! ... */`."""
    return f" {match.groupdict().get('executed') or ''} "
