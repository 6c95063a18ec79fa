"""Counts the rows that a flow writes, by table.

The figures are those that the database reports for each statement of the flow's session: rows that
an UPDATE matches count as updated. Rows that the database itself writes, by a trigger or a cascade
of a foreign key, are not reported. What is rolled back to a savepoint does not count.

Of an INSERT that updates a row that exists already, the database reports one number, which counts
as upserted. MySQL and MariaDB report such a row twice.
"""

import re
from collections import Counter
from typing import Any, NoReturn

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.engine.interfaces import ExecuteStyle

from ...db import backend_of
from ...db.statements import code_of, implicit_commit
from ...errors import DataFlowError

KINDS = ("inserted", "updated", "deleted", "upserted")
_FLAGS = re.IGNORECASE | re.DOTALL
# Statements of text whose table is certain. A group for each of KINDS, and one for the table.
_WRITE = re.compile(
    r"\s*(?:(INSERT)(?:\s+IGNORE)?\s+INTO|(UPDATE)(?:\s+ONLY)?|(DELETE)\s+FROM(?:\s+ONLY)?"
    r"|(REPLACE|INSERT\s+OR\s+REPLACE)\s+INTO)\s+([\w.\"`]+)(?(2)\s+SET\b)",
    _FLAGS,
)
# An INSERT that may update instead.
_UPSERT = re.compile(r"ON\s+CONFLICT.*?\bDO\s+UPDATE|ON\s+DUPLICATE\s+KEY", _FLAGS)
_READ = re.compile(
    r"\W*(SELECT|VALUES|TABLE|SHOW|EXPLAIN|DESC|DESCRIBE|PRAGMA|SET|USE|DECLARE|FETCH|CLOSE)\b"
    r"|\W*$|\W*WITH\b(?!.*\b(INSERT|(?<!FOR )UPDATE|DELETE|MERGE|REPLACE)\b)",
    _FLAGS,
)
_SAVEPOINT = re.compile(
    r"\s*(?:(SAVEPOINT)|(RELEASE)(?:\s+SAVEPOINT)?"
    r"|ROLLBACK\s+(?:(?:WORK|TRANSACTION)\s+)?TO(?:\s+SAVEPOINT)?)\s+(\S+)",
    _FLAGS,
)


class WrittenRows:
    """The rows that statements through an engine write. Those that may commit are refused."""

    def __init__(self, engine: Engine) -> None:
        self._rows = Counter[tuple[str, str]]()
        # The statements whose table is not known, by their first words.
        self.others = Counter[str]()
        self._savepoints: list[tuple[str, Any, Any]] = []
        self._last: tuple[tuple[str, str], Any, int] | None = None
        self._refused: DataFlowError | None = None
        event.listen(engine, "before_cursor_execute", self._before)
        event.listen(engine, "after_cursor_execute", self._after)
        event.listen(engine, "commit", lambda _: self._refuse("tried a commit of its own"))

    def tables(self) -> dict[str, dict[str, int]]:
        """Return the numbers of rows, by table and by KINDS."""
        self._count_last()
        names = sorted({table for table, _kind in +self._rows})
        return {name: {kind: self._rows[name, kind] for kind in KINDS} for name in names}

    def require_none_refused(self) -> None:
        """Raise the error of a statement that was refused, even if the flow has swallowed it."""
        if self._refused:
            raise self._refused

    def _before(self, connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        self._count_last()
        if words := implicit_commit(connection.engine, statement):
            self._refuse(f"sent {words}, which this database may commit at once: not executed")
        if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            self._refuse("sent a statement in the mode AUTOCOMMIT: not executed")

    def _refuse(self, what: str) -> NoReturn:
        """Raise an error with what the flow did, now and at the end of the rehearsal."""
        message = f"the flow {what}. Rehearse the flow on a copy of the database, or run it"
        self._refused = self._refused or DataFlowError(message)
        raise self._refused

    def _after(self, connection: Connection, cursor: Any, statement: str, *given: Any) -> None:
        context: DefaultExecutionContext = given[1]
        if match := _SAVEPOINT.match(statement):
            self._follow_savepoint(*match.groups())
        elif write := self._write_of(connection, statement, context):
            is_batch = context.execute_style is ExecuteStyle.INSERTMANYVALUES
            if cursor.description and not is_batch:
                context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(cursor)
            self._last = write, cursor, cursor.rowcount

    def _count_last(self) -> None:
        """Count the rows of the last statement: SQLite reports them when all were fetched."""
        if self._last:
            write, cursor, rows = self._last
            self._rows[write] += max(rows, cursor.rowcount, 0)
        self._last = None

    def _write_of(
        self, connection: Connection, statement: str, context: DefaultExecutionContext
    ) -> tuple[str, str] | None:
        """Return to which table a statement writes, and what, if both are certain."""
        compiled: Any = context.compiled
        code = code_of(backend_of(connection), statement)
        flags = (context.isinsert, context.isupdate, context.isdelete)
        if any(flags):
            table = compiled.statement.table
            table, kind = getattr(table, "fullname", str(table)), KINDS[flags.index(True)]
        elif match := _WRITE.match(statement):
            table = re.sub(r"[\"`]", "", match[5])
            kind = KINDS[[bool(group) for group in match.groups()].index(True)]
        else:
            if not _READ.match(code):
                self.others[" ".join(code.upper().split()[:2])] += 1
            return None
        return table, "upserted" if kind == "inserted" and _UPSERT.search(code) else kind

    def _follow_savepoint(self, begun: str | None, released: str | None, name: str) -> None:
        """Forget what was written since a savepoint that is rolled back."""
        name = name.strip('"`;').lower()
        if begun:
            self._savepoints.append((name, self._rows.copy(), self.others.copy()))
            return
        names = [savepoint[0] for savepoint in self._savepoints]
        if name not in names:
            return
        place = len(names) - 1 - names[::-1].index(name)
        if released:
            del self._savepoints[place:]
        else:
            _, rows, others = self._savepoints[place]
            self._rows, self.others = rows.copy(), others.copy()
            del self._savepoints[place + 1 :]
