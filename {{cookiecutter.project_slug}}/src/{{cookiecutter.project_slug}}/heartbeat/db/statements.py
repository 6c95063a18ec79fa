"""Which statements begin or end a transaction, whatever their spelling and the comments in them."""

import re
from functools import lru_cache

from sqlalchemy import Engine

_STRING = r"'(?:[^']|'')*'"
_STRING_WITH_BACKSLASHES = r"'(?:[^'\\]|''|\\.)*'"
_DOLLAR_STRING = r"\$(?P<tag>\w*)\$.*?\$(?P=tag)\$"
_NAME = r'"(?:[^"]|"")*"|`[^`]*`'
_COMMENT = r"/\*.*?\*/"
_NESTED_COMMENT = rf"/\*(?:{_COMMENT}|.)*?\*/"
# MySQL executes what stands in such a comment.
_EXECUTED_COMMENT = r"/\*M?!\d*(?P<executed>.*?)\*/"
_MYSQL = rf"{_STRING_WITH_BACKSLASHES}|{_NAME}|(?:--\s|\#)[^\n]*|{_EXECUTED_COMMENT}|{_COMMENT}"
# What is not code, by the rules of each database.
_NOT_CODE = {
    "mysql": _MYSQL,
    "mariadb": _MYSQL,
    "sqlite": rf"{_STRING}|{_NAME}|\[[^\]]*\]|--[^\n]*|{_COMMENT}",
    "postgresql": rf"\b[eE]{_STRING_WITH_BACKSLASHES}|{_STRING}|{_DOLLAR_STRING}|{_NAME}"
    rf"|--[^\n]*|{_NESTED_COMMENT}",
}
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
    """Return the words by which a statement would begin or end a transaction, if it would.

    Savepoints are no control: what they undo or keep is decided with their transaction.
    """
    if not _MAY_CONTROL.search(statement):
        return None
    return _control(engine.dialect.name, statement)


@lru_cache(maxsize=1_000)
def _control(dialect: str, statement: str) -> str | None:
    code = re.sub(_NOT_CODE[dialect], _executed, statement, flags=re.DOTALL)
    statements = [code]
    # Only PostgreSQL takes several at once; the body of a function belongs to its statement.
    if dialect == "postgresql" and not re.search(r"\bBEGIN\s+ATOMIC\b", code, re.IGNORECASE):
        statements = code.split(";")
    for each in statements:
        if match := _CONTROL.match(each):
            return " ".join(match[1].upper().split())
    return None


def _executed(match: re.Match[str]) -> str:
    return f" {match.groupdict().get('executed') or ''} "
