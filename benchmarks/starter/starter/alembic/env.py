"""The migration environment; it reads the application's .ini file."""

from __future__ import annotations

from alembic import context  # type: ignore[import-not-found]
from pyramid.paster import get_appsettings, setup_logging
from starter.models import Base, get_engine  # type: ignore[import-not-found]

setup_logging(context.config.config_file_name)
engine = get_engine(get_appsettings(context.config.config_file_name))
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()
