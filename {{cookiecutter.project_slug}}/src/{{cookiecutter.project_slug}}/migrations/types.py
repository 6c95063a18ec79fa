"""How revisions write column types that are not SQLAlchemy's own.

A TypeDecorator becomes the types that it stands for in each database. So a revision imports nothing
from your code, runs on every database, and goes on running when your code changes.
"""

from copy import copy
from typing import Any, Literal

from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import _repr_type
from alembic.migration import MigrationContext
from sqlalchemy import Dialect, TypeDecorator, make_url
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.types import TypeEngine
from sqlalchemy.util import immutabledict

DIALECTS: dict[str, Dialect] = {"default": DefaultDialect()}
for name in ("mariadb", "mysql", "postgresql", "sqlite"):
    DIALECTS[name] = make_url(f"{name}://").get_dialect()()
    # Else `dialect.type_descriptor` returns types that are private to the dialect.
    DIALECTS[name].colspecs = {}


def render_item(kind: str, item: Any, context: AutogenContext) -> str | Literal[False]:
    """Return the source of a column type, or False for what Alembic writes well by itself."""
    if kind != "type":
        return False
    types = {name: type_in(dialect, item) for name, dialect in DIALECTS.items()}
    if all(each is item for each in types.values()):
        if not is_of_sqlalchemy(item):
            context.imports.add(f"import {type(item).__module__}")
        return False
    names: dict[str, list[str]] = {}
    for name, each in types.items():
        names.setdefault(render_in(DIALECTS[name], each, context), []).append(name)
    source, *variants = names
    for variant in variants:
        databases = ", ".join(map(repr, names[variant]))
        source += f".with_variant({variant}, {databases})"
    return source


def type_in(dialect: Dialect, item: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return the type that `item` stands for in a database."""
    found = item._variant_mapping.get(dialect.name, item)  # noqa: SLF001 - Alembic reads it, too
    if isinstance(found, TypeDecorator) and not is_of_sqlalchemy(found):
        found = found.load_dialect_impl(dialect)
    return item if found is item else type_in(dialect, found)


def render_in(dialect: Dialect, item: TypeEngine[Any], context: AutogenContext) -> str:
    """Return the source of a type as Alembic writes it in a database."""
    bare = copy(item)
    bare._variant_mapping = immutabledict()  # noqa: SLF001 - `render_item` writes the variants
    own = AutogenContext(MigrationContext.configure(dialect=dialect), opts=context.opts)
    source = _repr_type(bare, own)
    context.imports.update(own.imports)
    return source


def is_of_sqlalchemy(item: TypeEngine[Any]) -> bool:
    """Tell whether a revision finds the class of a type in SQLAlchemy."""
    return type(item).__module__.startswith("sqlalchemy.")
