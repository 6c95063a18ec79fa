"""The lists stay walks along an index, however many rows there are: asked of SQLite alone."""

from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from data_flows.heartbeat.optional.history.lists import list_beats, list_runs

from ..conftest import DATABASE
from ..factories import data_flow

PRIMARY_KEY = "INTEGER PRIMARY KEY"
INDEX = "COVERING INDEX ix_data_flow_runs_"


def plan_of_last(dbsession: Session, work: Any) -> list[str]:
    """Return SQLite's plan of the last statement that `work` executes."""
    executed: list[Any] = []
    connection = dbsession.connection()
    event.listen(connection, "before_cursor_execute", lambda *args: executed.append(args[2:4]))
    work()
    statement, parameters = executed[-1]
    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    return [row.detail for row in plan]


if DATABASE == "sqlite":

    @pytest.mark.parametrize(
        ("options", "search"),
        [
            ({}, None),
            ({"before": 9}, f"{PRIMARY_KEY} (rowid<?)"),
            ({"flow": "orders"}, f"{INDEX}data_flow_id_id (data_flow_id=?)"),
            ({"flow": "orders", "before": 9}, f"{INDEX}data_flow_id_id (data_flow_id=? AND id<?)"),
            ({"status": "failed"}, f"{INDEX}status_id (status=?)"),
            ({"status": "failed", "before": 9}, f"{INDEX}status_id (status=? AND id<?)"),
            (
                {"flow": "orders", "status": "failed", "before": 9},
                f"{INDEX}data_flow_id_status_id (data_flow_id=? AND status=? AND id<?)",
            ),
        ],
    )
    def test_a_page_of_runs_is_read_from_an_index(
        dbsession: Session, options: dict[str, Any], search: str | None
    ) -> None:
        dbsession.add(data_flow(name="orders"))
        dbsession.flush()

        plan = plan_of_last(dbsession, lambda: list_runs(dbsession, **options))

        # Only the rows of the page are sorted, after the ids of the page were read in order.
        assert plan == [
            "MATERIALIZE anon_1",
            f"SEARCH data_flow_runs USING {search}" if search else "SCAN data_flow_runs",
            "SCAN anon_1",
            f"SEARCH data_flow_runs USING {PRIMARY_KEY} (rowid=?)",
            f"SEARCH data_flows USING {PRIMARY_KEY} (rowid=?)",
            "USE TEMP B-TREE FOR ORDER BY",
        ]

    def test_a_page_of_beats_is_read_by_the_primary_key(dbsession: Session) -> None:
        first = plan_of_last(dbsession, lambda: list_beats(dbsession))
        next_one = plan_of_last(dbsession, lambda: list_beats(dbsession, before=9))

        assert first == ["SCAN data_flow_beats"]
        assert next_one == [f"SEARCH data_flow_beats USING {PRIMARY_KEY} (rowid<?)"]
