"""The table of a new flow: its model, and a revision of your own migrations."""

from pathlib import Path
from typing import Any

from alembic.script import ScriptDirectory
from alembic.util import CommandError, rev_id

from ...cli.database import own_chain
from ...errors import DataFlowError
from .project import Project
from .templates import fill


def table_files(project: Project, config: str, names: dict[str, str]) -> dict[Path, str]:
    """Return the contents of the files for a table, by path. Raises DataFlowError.

    names: the placeholders of the templates.
    """
    meta: Any = project.module("models.meta")
    if not (hasattr(meta, "Base") and hasattr(meta, "UTCDateTime")):
        where = f"{project.package}/models/meta.py"
        raise DataFlowError(f"--table needs {where} with Base and UTCDateTime: write the table")
    tables = meta.Base.metadata.tables
    if names["table"] in tables:
        raise DataFlowError(f"there is a table {names['table']!r} already: choose another name")
    chain = own_chain(config)
    if chain is None:
        message = f"--table needs migrations of your own, but {config} names none"
        raise DataFlowError(f"{message}: set script_location in its section [alembic]")
    script = ScriptDirectory.from_config(chain)
    try:
        head = script.get_current_head()
    except CommandError as error:
        merge = f"alembic -c {config} merge heads"
        raise DataFlowError(f"your migrations have several heads: run `{merge}`") from error
    revision = _following(head)
    names = {
        **names,
        "revision": revision,
        "down_revision": f'"{head}"' if head else "None",
        "options": _character_sets(tables),
    }
    model = Path(meta.__file__).with_name(f"{names['name']}.py")
    migration = Path(script.versions) / f"{revision}_{names['table']}.py"
    return {model: fill("model", names), migration: fill("revision", names)}


def _following(head: str | None) -> str:
    """Return the next number where revisions are numbered, else a random name."""
    if head is None:
        return "0001"
    return str(int(head) + 1).zfill(len(head)) if head.isdecimal() else rev_id()


def _character_sets(tables: Any) -> str:
    """Return the arguments for the character set that your other tables have on MySQL."""
    options: dict[str, str] = next((table.kwargs for table in tables.values()), {})
    names = [name for name in options if name.endswith("_charset")]
    return "".join(f'\n        {name}="{options[name]}",' for name in names)
