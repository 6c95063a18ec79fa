"""The application of the tests of rehearsals: flows that write, fail, hang, or try to commit."""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import transaction
from pydantic import BaseModel
from pyramid.config import Configurator
from pyramid.router import Router
from sqlalchemy import delete, insert, select, text, update
from transaction.interfaces import IDataManager
from zope.interface import implementer

from data_flows.heartbeat import Run

from ..notes import Note

MANY = 100_000


def row(name: str, size: int = 1) -> dict[str, Any]:
    """Return the values of a note."""
    return {"name": name, "mark": name, "size": size}


def work(run: Run) -> dict[str, Any]:
    """Write by the ORM, by Core and by text: 6 rows inserted, 3 updated, 2 deleted."""
    run.log.info("at work on %s", run.configuration)
    run.session.add_all([Note(**row(f"orm {number}")) for number in range(3)])
    run.session.flush()
    run.session.execute(insert(Note), [row("core 1"), row("core 2")])
    statement = "INSERT INTO notes_of_tests (name, mark, size) VALUES ('text', 'text', 1)"
    run.session.execute(text(statement))
    run.session.scalars(select(Note).filter_by(name="orm 0")).one().size = 2
    run.session.execute(update(Note).where(Note.name == "orm 1").values(size=3))
    run.session.execute(text("UPDATE notes_of_tests SET size = 4 WHERE name = 'text'"))
    run.session.execute(delete(Note).where(Note.name == "core 1"))
    run.session.execute(text("DELETE FROM notes_of_tests WHERE name = 'core 2'"))
    return {"rows": 6, "window": [run.window.start.isoformat(), run.window.end.isoformat()]}


def savepoints(run: Run) -> None:
    """Write five rows, of which three are rolled back to a savepoint."""
    run.session.add(Note(**row("kept")))
    with suppress(LookupError), run.session.begin_nested():
        run.session.add_all([Note(**row("gone 1")), Note(**row("gone 2"))])
        run.session.flush()
        with run.session.begin_nested():
            run.session.execute(insert(Note).values(**row("gone 3")))
        raise LookupError
    with run.session.begin_nested():
        run.session.add(Note(**row("kept, too")))


def fail(run: Run) -> None:
    """Write, and fail."""
    work(run)
    raise LookupError("no such bird")


def many(run: Run) -> int:
    """Write many rows, half of them by one statement."""
    half = MANY // 2
    run.session.execute(insert(Note), [row(f"row {number}") for number in range(half)])
    every = select(Note.name, Note.mark.concat(" again"), Note.size)
    run.session.execute(insert(Note).from_select(["name", "mark", "size"], every))
    return MANY


def swallow(run: Run) -> None:
    """Go on after a database error."""
    run.session.execute(insert(Note).values(**row("once")))
    with suppress(Exception):
        run.session.execute(insert(Note).values(**row("once")))


def commits(run: Run) -> None:
    """Try to commit, in two ways, and go on."""
    run.session.add(Note(**row("committed")))
    for end in (run.session.commit, lambda: run.session.execute(text("COMMIT"))):
        with suppress(Exception):
            end()


def beside(run: Run) -> None:
    """Try to write with a connection beside the session, and go on."""
    engine: Any = run.session.get_bind()
    options = {"isolation_level": "AUTOCOMMIT"} if run.configuration.get("auto") else {}
    with suppress(Exception), engine.execution_options(**options).begin() as connection:
        connection.execute(insert(Note).values(**row("beside")))


def create(run: Run) -> None:
    """Write, and create a table, which commits on MySQL and MariaDB."""
    run.session.execute(insert(Note).values(**row("before")))
    with suppress(Exception):
        run.session.execute(text("CREATE TABLE made_by_a_flow (id INTEGER)"))


def hang(run: Run) -> None:
    """Write, and do not end."""
    run.session.execute(insert(Note).values(**row("hangs")))
    run.log.info("about to hang")
    Path(os.environ["TEST_FOLDER"], "inside").touch()
    while True:
        time.sleep(1)


@implementer(IDataManager)
class Mail:
    """A data manager that sends a mail at the commit of a transaction."""

    def __init__(self, manager: Any) -> None:
        self.transaction_manager = manager

    def sortKey(self) -> str:  # noqa: N802 - the interface
        """Return its place in the order of data managers."""
        return "mail"

    def _ignore(self, _transaction: object) -> None:
        pass

    abort = tpc_begin = commit = tpc_vote = tpc_abort = _ignore

    def tpc_finish(self, _transaction: object) -> None:
        """Send the mail."""
        Path(os.environ["TEST_FOLDER"], "mail").touch()


def mail(run: Run) -> None:
    """Write, and send a mail when that is committed."""
    session: Any = run.session
    session.add(Note(**row("mailed")))
    session.flush()
    manager: transaction.TransactionManager = session.manager
    manager.get().join(Mail(manager))
    manager.get().addAfterCommitHook(lambda _success: Mail(manager).tpc_finish(None))


class Settings(BaseModel):
    """A configuration."""

    limit: int = 10


def limited(run: Run) -> int:
    """Return the limit."""
    return int(run.configuration.limit)


FLOWS: list[tuple[Any, dict[str, Any]]] = [
    (beside, {}),
    (work, {"configuration": {"region": "eu"}}),
    *((each, {}) for each in (savepoints, fail, many, swallow, commits, create, mail)),
    (limited, {"configuration": Settings}),
    (hang, {"timeout": "5s"}),
    (hang, {"name": "hang without a limit"}),
    (work, {"name": "with a timeout", "timeout": "1h"}),
    (fail, {"name": "retried", "retries": 3, "pause_after": 1}),
]


def application(_global_config: dict[str, str], **settings: Any) -> Router:
    """Make the application: the engine, with these flows."""
    with Configurator(settings=settings) as config:
        config.include("data_flows.heartbeat")
        for function, options in FLOWS:
            config.add_flow(function, every="1h", **options)
        app: Router = config.make_wsgi_app()
        return app
