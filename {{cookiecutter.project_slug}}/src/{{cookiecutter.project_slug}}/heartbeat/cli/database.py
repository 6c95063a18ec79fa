"""The command `heartbeat migrate`.

Alembic is imported where it is used: the other commands do not need it.
"""

from typing import TYPE_CHECKING

import click
from pyramid.paster import get_appsettings
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from .. import migrations
from ..db import MIGRATION, backend_of, create_database, database_url, make_engine, reason
from ..errors import DatabaseNotReadyError, SettingsError
from .application import application, config_option

if TYPE_CHECKING:
    from alembic.config import Config


@click.command()
@config_option
def migrate(config: str) -> None:
    """Bring the database up to date: the heartbeat's tables first, then yours.

    A missing database is created, where that is allowed. Several processes may call this at once:
    they take turns.
    """
    from alembic import command

    engine = make_engine(_url(config), limits=MIGRATION)
    try:
        if create_database(engine):
            click.echo(f"created the database {engine.url.database}")
        migrations.upgrade(engine)
        migrations.require_current(engine)
        click.echo("the heartbeat's tables are up to date")
        if own := own_chain(config):
            with engine.connect() as connection, backend_of(engine).migration_lock(connection):
                own.attributes["connection"] = connection
                command.upgrade(own, "head")
                connection.commit()
            click.echo("your tables are up to date")
    except DBAPIError as error:
        raise DatabaseNotReadyError(f"the database refuses to migrate: {reason(error)}") from error
    finally:
        engine.dispose()


def _url(config: str) -> URL:
    try:
        return database_url(get_appsettings(config))
    except SettingsError:
        # In a pipeline, only the application itself knows its settings.
        with application(config) as heartbeat:
            return heartbeat.engine.url


def own_chain(config: str) -> "Config | None":
    """Return the application's own Alembic configuration, if its .ini file has one."""
    from alembic.config import Config

    own = Config(config.partition("#")[0])
    # Config itself raises an error where the whole section is missing.
    has_one = own.file_config.has_option(own.config_ini_section, "script_location")
    return own if has_one else None
