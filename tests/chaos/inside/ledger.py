"""The database as chaos needs it, run by the rendered project's Python, which has its drivers.

python ledger.py prepare|dump|due URL
"""

import json
import sys
from datetime import UTC, datetime
from typing import Any

from application import WRITTEN, metadata
from data_flows.heartbeat.models import DataFlow, DataFlowBeat, DataFlowRun
from sqlalchemy import Engine, create_engine, func, select, update


def prepare(engine: Engine) -> None:
    """Make the table that the flows write to."""
    metadata.create_all(engine)


def dump(engine: Engine) -> dict[str, Any]:
    """Give all that the audit wants to know, as of one moment after all runs have ended."""
    tables = {"flows": DataFlow.__table__, "runs": DataFlowRun.__table__, "rows": WRITTEN}
    with engine.connect() as connection:
        return {
            **{
                name: [dict(row) for row in connection.execute(select(table)).mappings()]
                for name, table in tables.items()
            },
            "beats": connection.scalar(select(func.count()).select_from(DataFlowBeat)),
        }


def make_due(engine: Engine) -> None:
    """Make all flows due now, at a slot that none had yet."""
    with engine.begin() as connection:
        connection.execute(update(DataFlow).values(next_run_at=datetime.now(UTC)))


def main(what: str, url: str) -> None:
    """Do it, and print what there is to print."""
    engine = create_engine(url)
    try:
        done = {"prepare": prepare, "dump": dump, "due": make_due}[what](engine)
    finally:
        engine.dispose()
    json.dump(done, sys.stdout, default=datetime.isoformat)


if __name__ == "__main__":
    main(*sys.argv[1:])
