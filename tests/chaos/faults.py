"""Faults that are planted into a copy of the engine, so that chaos is seen to find them."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

ENDS, CLAIMS = "runs/finish.py", "runs/claim.py"
LIMITS = "db/backend.py"
TABLES = "migrations/versions/0001_create_the_heartbeat_tables.py"
# What is taken out of the engine: in a file, all that a pattern matches.
FAULTS = {
    # A run's end is written whoever has taken the run over meanwhile.
    "guard": (
        (ENDS, r" +_RUN\.c\.status == RunStatus\.IN_PROGRESS\.value,\n"),
        (ENDS, r" +_RUN\.c\.claim_id\.is_not_distinct_from\(.*\),\n"),
        (ENDS, r', "claim": run\.claim_id'),
    ),
    # Claims look for what is due without a lock, and the database takes a slot twice.
    "lock": (
        (CLAIMS, r"\.with_for_update\(skip_locked=True\)"),
        (CLAIMS, r" +begin_writing\(session.*\)\n"),
        (TABLES, r" +sa\.UniqueConstraint\(\n +\"data_flow_id\",\n(?: +.*\n){3} +\),\n"),
        (TABLES, r" +sa\.UniqueConstraint\(\"data_flow_id\", \"active\", .*\),\n"),
    ),
    # A slot whose run was lost is not due again.
    "retry": ((ENDS, r" +follow_failure\(session, .*, lost=True\)\n"),),
    # Answers of the server are waited for without limit.
    "limit": (
        (LIMITS, r" +for name in \(\"do_execute\", .*\n +setattr\(.*, limits\.answer\)\)\n"),
    ),
}


def plant(fault: str, source: Path, folder: Path) -> Path:
    """Copy the package that `source` holds into `folder`, with a fault; give the new source."""
    copy = folder / f"source_without_{fault}"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (engine,) = copy.glob("*/heartbeat")
    for name, pattern in FAULTS[fault]:
        file = engine / name
        text, found = re.subn(pattern, "", file.read_text())
        if not found:
            raise LookupError(
                f"{name} has nothing like {pattern!r}: correct the pattern of the fault"
            )
        file.write_text(text)
    return copy
