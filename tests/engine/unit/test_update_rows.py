"""Many rows are changed by one statement, each to values of its own, whatever they are."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from data_flows.heartbeat.db import backend_of
from data_flows.heartbeat.models import DataFlowRun, RunStatus, table_of

from ..factories import data_flow

RUN = table_of(DataFlowRun)
NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
NOTHING = dict.fromkeys(("ended_at", "duration", "result", "log", "error_message"))
VALUES: list[dict[str, Any]] = [
    {
        "ended_at": NOW,
        "duration": 1 / 3,
        "result": {"größe": ["🦉", 1, None, True, 1e300], "quotes": "\\ \" ' % :new"},
        "log": "a\tline\nand 🦉 another \\n",
        "error_message": "",
    },
    NOTHING,
    {
        **NOTHING,
        "duration": 123456.000001,
        "result": [1, [2, {}]],
        "log": "null",
        "error_message": "1",
    },
]


@pytest.fixture
def _latin1(dbsession: Session) -> Iterator[None]:
    """Give the database a default character set that lacks most characters, where it may."""
    if dbsession.get_bind().dialect.name != "mysql":
        yield
        return
    for name in ("latin1", "utf8mb4"):
        dbsession.connection().exec_driver_sql(f"ALTER DATABASE CHARACTER SET {name}")
        dbsession.commit()
        if name == "latin1":
            yield
            dbsession.rollback()


@pytest.mark.usefixtures("_latin1")
@pytest.mark.parametrize("count", [1, 3])
def test_each_row_gets_its_own_values(dbsession: Session, count: int) -> None:
    dbsession.add_all(flows := [data_flow(name=f"flow {n}") for n in range(4)])
    dbsession.flush()
    runs = [DataFlowRun(data_flow_id=flow.id, created_at=NOW, log="as it was") for flow in flows]
    dbsession.add_all(runs)
    dbsession.flush()
    ended = {"status": RunStatus.SUCCESS.value, "updated_at": NOW}
    rows = [
        {"id": run.id, **ended, **values} for run, values in zip(runs, VALUES[:count], strict=False)
    ]

    backend_of(dbsession.get_bind()).update_rows(dbsession.connection(), RUN, rows)

    columns = [RUN.c[name] for name in rows[0]]
    found = dbsession.connection().execute(select(*columns).order_by(RUN.c.id)).all()
    assert [row._asdict() for row in found[:count]] == rows
    assert {row.log for row in found[count:]} == {"as it was"}
