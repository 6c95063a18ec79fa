"""Run by Alembic for the engine's chain; everything it needs comes from the caller.

Alembic loads this file by its path, so that it cannot import from the engine.
"""

from alembic import context

# A scan of the application's package imports it as a part of that, with nothing to migrate.
if not __package__:
    context.configure(**context.config.attributes["configure"])
    with context.begin_transaction():
        context.run_migrations()
