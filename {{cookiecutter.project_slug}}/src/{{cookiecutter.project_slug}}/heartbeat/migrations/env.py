"""Run by Alembic for the engine's chain; everything it needs comes from the caller.

Alembic loads this file by its path, so that it cannot import from the engine.
"""

from alembic import context

context.configure(**context.config.attributes["configure"])
with context.begin_transaction():
    context.run_migrations()
