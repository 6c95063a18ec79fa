"""The command `heartbeat check`."""

from collections.abc import Iterator
from typing import cast

import click
import plaster
from sqlalchemy import Connection, QueuePool, select

from ... import VERSION, migrations
from ...cli.application import application, config_option
from ...cli.database import own_chain
from ...core import Heartbeat
from ...db import backend_of
from ...db.text import UTF_8, codec_of
from ...errors import DatabaseNotReadyError, HandlerNotRegisteredError
from ...models import DataFlow, DataFlowRun, EngineBase
from ...models.data_flow import with_active_run
from ...printing import printable
from ...redaction import without_password
from ...runs.unreadable import problem_of
from .files import changed_files

# A line of the report: whether it is in order, and its text.
Finding = tuple[bool, str]


@click.command()
@config_option
def check(config: str) -> None:
    """Check settings, database, migrations, secrets and flows, with a line for each.

    No server is started and nothing is written. The exit code is 1 if there is a problem.
    """
    findings = [(True, "settings"), _engine()]
    with application(config) as heartbeat:
        for of in (_secrets, _server, _database):
            findings += of(heartbeat, config)
    for in_order, text in findings:
        click.echo(f"{'ok' if in_order else 'wrong':<6} {printable(text)}")
    if not all(in_order for in_order, _text in findings):
        raise SystemExit(1)


def _engine() -> Finding:
    changed = ", ".join(changed_files())
    found = f"changed: {changed}; an update would undo it" if changed else "unchanged"
    return not changed, f"engine {VERSION}, {found}"


def _secrets(heartbeat: Heartbeat, _config: str) -> Iterator[Finding]:
    roles = {"scheduler": heartbeat.tokens, "operator": heartbeat.operator_tokens}
    for role, tokens in roles.items():
        valid = tokens.all()  # sets tokens.problem
        file = tokens.file
        if tokens.problem:
            yield False, f"{file}: {tokens.problem}"
        elif file and file.exists() and file.stat().st_mode & 0o077:
            yield False, f"others can read {file}: run `chmod 600 {file}`"
        else:
            yield True, f"{role} tokens: {len(valid)}"
    if heartbeat.settings.require_token and not any(tokens.all() for tokens in roles.values()):
        yield False, "no token is set up: the heartbeat answers 503"


def _server(heartbeat: Heartbeat, config: str) -> Iterator[Finding]:
    threads = int(plaster.get_settings(config, "server:main").get("threads", 4))
    pool = cast("QueuePool", heartbeat.engine.pool)
    web = f"web threads: {threads} (each waiting beat holds one)"
    own = f"workers: {heartbeat.settings.workers}"
    # With one thread, no other request would be answered while a beat waits.
    yield threads > 1, f"{web}, {own}, database connections: {pool.size()} kept, more when needed"
    if backend_of(heartbeat.engine).has_one_writer:
        yield True, "SQLite has one writer at a time: others wait for a flow that has written"


def _database(heartbeat: Heartbeat, config: str) -> Iterator[Finding]:
    try:
        revision = migrations.require_current(heartbeat.engine)
    except DatabaseNotReadyError as error:
        yield False, str(error)
        return
    url = without_password(heartbeat.engine.url)
    yield True, f"database {url}, heartbeat tables at revision {revision}"
    with heartbeat.engine.connect() as connection:
        limited = _text_problem(connection)
    yield limited is None, limited or "texts may hold any Unicode"
    if own := own_chain(config):
        from .chain import check_chain

        yield from check_chain(heartbeat.engine, own, config)
    with heartbeat.session() as session:
        rows = session.execute(with_active_run(select(DataFlow, DataFlowRun))).all()
    yield True, f"flows: {len(heartbeat.flows)} registered, {len(rows)} rows"
    for flow, run in rows:
        if problem := problem_of(flow, run):
            yield False, f"flow {flow.name}: {problem}"
        elif flow.handler not in heartbeat.flows:
            yield False, str(HandlerNotRegisteredError(flow.name, flow.handler))


def _text_problem(connection: Connection) -> str | None:
    """Return why our tables cannot hold any Unicode, and what to do; None if they can."""
    codec = codec_of(connection.dialect)
    if codec != UTF_8:
        return (
            f"text is stored as {codec}, and other characters as escapes: use a database whose "
            "encoding is UTF-8, and no other character set in sqlalchemy.url"
        )
    tables = EngineBase.metadata.tables
    if found := ", ".join(backend_of(connection).limited_columns(connection, tables)):
        return f"not every character can be stored in {found}: give the columns the charset utf8mb4"
    return None
