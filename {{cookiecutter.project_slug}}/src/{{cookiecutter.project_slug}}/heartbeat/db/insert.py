"""Inserting rows of which a unique constraint may refuse some."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, Connection, Insert, Select, Table, bindparam, column, func, select
from sqlalchemy.dialects import mysql, postgresql, sqlite


def insert_new(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    key: str,
    inserted: Select[str, int],
) -> dict[str, int]:
    """Insert rows, all with the same columns; return the ids of the inserted ones by their `key`.

    Rows that a unique constraint refuses are left out; any other error is raised. `inserted`
    selects key and id of candidates, where the database does not return them by itself.
    """
    names = (*rows[0],)
    if connection.dialect.name == "postgresql":
        arrays = {name: [row[name] for row in rows] for name in names}
        return dict(connection.execute(_insert_arrays(table, names, key), arrays).all())
    connection.execute(_insert_each(connection.dialect.name, table), rows)
    keys = {row[key] for row in rows}
    return {found: id_ for found, id_ in connection.execute(inserted) if found in keys}


@cache
def _insert_each(dialect: str, table: Table) -> Insert:
    if dialect == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    # Not IGNORE, which would also store what does not fit. This changes nothing.
    return mysql.insert(table).on_duplicate_key_update(id=table.c.id)


@cache
def _insert_arrays(table: Table, names: tuple[str, ...], key: str) -> Insert:
    """Insert many rows, of which each parameter gives a column, as an array.

    The text is the same for any number of rows: psycopg parses a statement with more than 50
    parameters at each use, which is a third of a claim.
    """
    types = {name: table.c[name].type for name in names}
    arrays = [bindparam(name, type_=ARRAY(kind)) for name, kind in types.items()]
    columns = [column(name, kind) for name, kind in types.items()]
    rows = func.unnest(*arrays).table_valued(*columns).render_derived()
    statement = postgresql.insert(table).from_select(names, select(*rows.c), include_defaults=False)
    return statement.on_conflict_do_nothing().returning(table.c[key], table.c.id)
