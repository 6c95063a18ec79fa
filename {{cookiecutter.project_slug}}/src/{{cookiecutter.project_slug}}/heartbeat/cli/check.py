"""The command that says whether all is in order, before anybody has to find out."""

from collections.abc import Iterator
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple, cast

import click
import plaster
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import QueuePool, select

from .. import VERSION, migrations
from ..core import Heartbeat
from ..errors import DatabaseNotReadyError
from ..models import DataFlow
from ..security.token import Tokens
from .application import application, config_option
from .database import own_chain

# One thread waits with each beat; with fewer than two, nothing else would be answered meanwhile.
FEWEST_WEB_THREADS = 2


class Finding(NamedTuple):
    """One line of the report."""

    ok: bool
    text: str


@click.command()
@config_option
def check(config: str) -> None:
    """Say whether settings, database, migrations, secrets and flows are in order, a line each.

    No server is started and nothing is written. The exit code is 1 if something is wrong.
    """
    wrong = 0
    with application(config) as heartbeat:
        click.echo("ok     settings")
        for finding in (
            *_engine(),
            *_secrets(heartbeat),
            *_server(heartbeat, config),
            *_database(heartbeat, config),
        ):
            click.echo(f"{'ok' if finding.ok else 'wrong':<6} {finding.text}")
            wrong += not finding.ok
    if wrong:
        raise SystemExit(1)


def _engine() -> Iterator[Finding]:
    changed = changed_files()
    yield Finding(
        not changed,
        f"engine {VERSION}, "
        + (f"changed: {', '.join(changed)}; an update would undo it" if changed else "unchanged"),
    )


def changed_files() -> list[str]:
    """Return the files of the engine that are not what its MANIFEST says."""
    engine = Path(str(files(__package__.rpartition(".")[0])))
    if not (engine / "MANIFEST").is_file():
        return ["MANIFEST"]
    lines = (engine / "MANIFEST").read_text("utf-8").splitlines()
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = {
        path.relative_to(engine).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in engine.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and path.name != "MANIFEST"
    }
    return sorted(name for name in listed.keys() | found if listed.get(name) != found.get(name))


def _secrets(heartbeat: Heartbeat) -> Iterator[Finding]:
    for role, tokens in (
        ("scheduler", heartbeat.tokens),
        ("operator", heartbeat.operator_tokens),
    ):
        yield _file_of(role, tokens)
    if heartbeat.settings.require_token and not (
        heartbeat.tokens.all() or heartbeat.operator_tokens.all()
    ):
        yield Finding(ok=False, text="no token is set up: the heartbeat answers 503")


def _file_of(role: str, tokens: Tokens) -> Finding:
    count = len(tokens.all())
    if tokens.file and tokens.file.exists() and tokens.file.stat().st_mode & 0o077:
        return Finding(
            ok=False, text=f"others can read {tokens.file}: run `chmod 600 {tokens.file}`"
        )
    return Finding(ok=True, text=f"{role} tokens: {count}")


def _server(heartbeat: Heartbeat, config: str) -> Iterator[Finding]:
    threads = int(plaster.get_settings(config, "server:main").get("threads", 4))
    workers = heartbeat.settings.workers
    pool = cast("QueuePool", heartbeat.engine.pool)
    yield Finding(
        threads >= FEWEST_WEB_THREADS,
        f"web threads: {threads} (each waiting beat holds one), workers: {workers}, database "
        f"connections: {pool.size()} kept, more when needed",
    )
    if heartbeat.engine.dialect.name == "sqlite":
        yield Finding(
            ok=True,
            text="SQLite has one writer at a time: a flow that has written makes the others wait "
            "until it ends",
        )


def _database(heartbeat: Heartbeat, config: str) -> Iterator[Finding]:
    try:
        migrations.require_current(heartbeat.engine)
    except DatabaseNotReadyError as error:
        yield Finding(ok=False, text=str(error))
        return
    where = heartbeat.engine.url.render_as_string(hide_password=True)
    yield Finding(ok=True, text=f"database {where}, at the heartbeat's revision")
    own = own_chain(config)
    if own is not None:
        with heartbeat.engine.connect() as connection:
            current = set(MigrationContext.configure(connection).get_current_heads())
        applied = current == set(ScriptDirectory.from_config(own).get_heads())
        mend = "" if applied else " not: run `heartbeat migrate`"
        yield Finding(applied, f"your own migrations are{mend or ' applied'}")
    with heartbeat.session() as session:
        rows = session.execute(select(DataFlow.name, DataFlow.handler)).all()
    yield Finding(ok=True, text=f"flows: {len(heartbeat.flows)} registered, {len(rows)} rows")
    for name, handler in rows:
        if handler not in heartbeat.flows:
            yield Finding(
                ok=False,
                text=f"flow {name}: its handler {handler!r} is not registered: add it to flows/, "
                f"or run `heartbeat remove {name}`",
            )
