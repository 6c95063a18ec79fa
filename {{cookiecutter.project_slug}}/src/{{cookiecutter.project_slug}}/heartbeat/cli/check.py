"""The command that says whether all is in order, before anybody has to find out."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import cast

import click
import plaster
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import QueuePool, select

from .. import VERSION, migrations
from ..core import Heartbeat
from ..errors import DatabaseNotReadyError
from ..models import DataFlow
from ..redaction import shown
from .application import application, config_option
from .database import own_chain

# A line of the report: whether it is in order, and what there is to say.
Finding = tuple[bool, str]


@click.command()
@config_option
def check(config: str) -> None:
    """Say whether settings, database, migrations, secrets and flows are in order, a line each.

    No server is started and nothing is written. The exit code is 1 if something is wrong.
    """
    findings = [(True, "settings"), _engine()]
    with application(config) as heartbeat:
        for of in (_secrets, _server, _database):
            findings += of(heartbeat, config)
    for in_order, text in findings:
        click.echo(f"{'ok' if in_order else 'wrong':<6} {text}")
    if not all(in_order for in_order, _text in findings):
        raise SystemExit(1)


def _engine() -> Finding:
    changed = ", ".join(changed_files())
    found = f"changed: {changed}; an update would undo it" if changed else "unchanged"
    return not changed, f"engine {VERSION}, {found}"


def changed_files() -> list[str]:
    """Return the files of the engine that are not what its MANIFEST says."""
    engine = Path(__file__).parents[1]
    if not (engine / "MANIFEST").is_file():
        return ["MANIFEST"]
    listed = set((engine / "MANIFEST").read_text("utf-8").splitlines())
    found = {
        f"{sha256(path.read_bytes()).hexdigest()}  {path.relative_to(engine).as_posix()}"
        for path in engine.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and path.name != "MANIFEST"
    }
    return sorted({line.partition("  ")[2] for line in listed ^ found})


def _secrets(heartbeat: Heartbeat, _config: str) -> Iterator[Finding]:
    roles = {"scheduler": heartbeat.tokens, "operator": heartbeat.operator_tokens}
    for role, tokens in roles.items():
        file = tokens.file
        if file and file.exists() and file.stat().st_mode & 0o077:
            yield False, f"others can read {file}: run `chmod 600 {file}`"
        else:
            yield True, f"{role} tokens: {len(tokens.all())}"
    if heartbeat.settings.require_token and not any(tokens.all() for tokens in roles.values()):
        yield False, "no token is set up: the heartbeat answers 503"


def _server(heartbeat: Heartbeat, config: str) -> Iterator[Finding]:
    threads = int(plaster.get_settings(config, "server:main").get("threads", 4))
    pool = cast("QueuePool", heartbeat.engine.pool)
    web = f"web threads: {threads} (each waiting beat holds one)"
    own = f"workers: {heartbeat.settings.workers}"
    # With one thread, nothing else would be answered while a beat waits.
    yield threads > 1, f"{web}, {own}, database connections: {pool.size()} kept, more when needed"
    if heartbeat.engine.dialect.name == "sqlite":
        yield True, "SQLite has one writer at a time: others wait for a flow that has written"


def _database(heartbeat: Heartbeat, config: str) -> Iterator[Finding]:
    try:
        migrations.require_current(heartbeat.engine)
    except DatabaseNotReadyError as error:
        yield False, str(error)
        return
    yield True, f"database {shown(heartbeat.engine.url)}, at the heartbeat's revision"
    if own := own_chain(config):
        with heartbeat.engine.connect() as connection:
            current = set(MigrationContext.configure(connection).get_current_heads())
        applied = current == set(ScriptDirectory.from_config(own).get_heads())
        state = "applied" if applied else "not: run `heartbeat migrate`"
        yield applied, f"your own migrations are {state}"
    with heartbeat.session() as session:
        rows = session.execute(select(DataFlow.name, DataFlow.handler)).all()
    yield True, f"flows: {len(heartbeat.flows)} registered, {len(rows)} rows"
    for name, handler in rows:
        if handler not in heartbeat.flows:
            mend = f"add it to flows/, or run `heartbeat remove {name}`"
            yield False, f"flow {name}: its handler {handler!r} is not registered: {mend}"
