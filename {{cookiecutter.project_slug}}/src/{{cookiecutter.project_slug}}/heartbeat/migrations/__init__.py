"""The engine's own chain of migrations, with a version table of its own.

Alembic is imported where it is used: a serving application only reads the revision.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, column, inspect, select, table

from ..db import backend_of, require_reachable, require_skip_locked
from ..errors import DatabaseNotReadyError
from ..models import DataFlow, EngineBase, is_engine_table
from ..models.meta import VERSION_TABLE

if TYPE_CHECKING:
    from alembic.config import Config

_FIX = "run `heartbeat migrate`"
# Their files are named by their numbers.
_REVISIONS = sorted(file.name[:4] for file in Path(__file__).parent.glob("versions/[0-9]*.py"))


def include_name(name: str | None, kind: str, _parents: object) -> bool:
    """Leave the engine's tables out of your own chain: for Alembic's context.configure()."""
    return kind != "table" or not is_engine_table(name)


def upgrade(engine: Engine) -> None:
    """Bring the engine's tables up to date. Processes that call it at once take turns.

    Tables that a newer engine has migrated stay as they are.
    """
    from alembic import command

    with engine.connect() as connection, backend_of(connection).migration_lock(connection):
        if not _is_newer(_current(connection)):
            command.upgrade(config_for(connection), "head")
        connection.commit()


def require_current(engine: Engine) -> str:
    """Return the revision of the engine's tables. Raise DatabaseNotReadyError if it is too old.

    The same error is raised if the database cannot be used. A revision that this engine does not
    know was made by a newer one, as happens while a new release is rolled out, and is accepted:
    migrations only ever add.
    """
    require_reachable(engine)
    with engine.connect() as connection:
        current, head = _current(connection), _REVISIONS[-1]
        if current is None:
            raise DatabaseNotReadyError(
                f"the database {engine.url.database!r} has no heartbeat tables yet: {_FIX}"
            )
        if current != head and not _is_newer(current):
            message = f"the heartbeat tables are at revision {current} instead of {head}: {_FIX}"
            raise DatabaseNotReadyError(message)
        require_skip_locked(connection, DataFlow.__table__)
    return current


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))


def _is_newer(revision: str | None) -> bool:
    return revision is not None and revision not in _REVISIONS


def config_for(connection: Connection) -> "Config":
    """Return Alembic's configuration for the engine's chain, on a connection."""
    from alembic.config import Config

    configure = {
        "connection": connection,
        "target_metadata": EngineBase.metadata,
        "version_table": VERSION_TABLE,
        "include_name": lambda name, kind, _parents: kind != "table" or is_engine_table(name),
        "render_as_batch": True,
    }
    config = Config(attributes={"configure": configure})
    # A % in the path would be read as an interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
