"""Run by Alembic for your own tables: `alembic -c development.ini revision --autogenerate`.

The heartbeat's tables have a chain of their own and are not seen here.
"""

from alembic import context
from pyramid.paster import get_appsettings, setup_logging
from sqlalchemy import Connection

from {{cookiecutter.project_slug}}.heartbeat.migrations import (
    include_name,
)
from {{cookiecutter.project_slug}}.migrations.types import (
    render_item,
)
from {{cookiecutter.project_slug}}.models import (
    Base,
    get_engine,
)


def run_migrations(connection: Connection) -> None:
    """Run the migrations on a connection."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_item=render_item,
        include_name=include_name,
        # SQLite cannot change most things of a table in place; Alembic then makes it anew.
        render_as_batch=True,
    )
    with context.begin_transaction():
        context.run_migrations()


connection = context.config.attributes.get("connection")
if connection is not None:  # `heartbeat migrate` holds a lock on it
    run_migrations(connection)
else:
    ini_file = context.config.config_file_name or "development.ini"
    setup_logging(ini_file)
    engine = get_engine(get_appsettings(ini_file))
    with engine.begin() as own_connection:
        run_migrations(own_connection)
    engine.dispose()
