"""What tests of operators share: their token, a flow to operate, and calls as an operator."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlow, DataFlowRun

OPERATOR = "an-operator-token-for-tests-alone"
SECRET = {"heartbeat.operator_token": OPERATOR}
AS_OPERATOR = {"Authorization": f"Bearer {OPERATOR}"}

Call = Callable[..., Any]
Post = Callable[..., Any]


def count(run: Run) -> dict[str, Any]:
    """Count birds."""
    return {"counted": run.configuration}


def as_operator(app: TestApp) -> Call:
    """Return what calls a resource of an application as the operator, and gives the response."""

    def call(method: str, path: str, body: object = None, *, status: int, **headers: str) -> Any:
        given: dict[str, Any] = {}
        if body is not None:
            given["body"] = json.dumps(body).encode()
            headers = {"Content-Type": "application/json", **headers}
        return app.request(
            f"/heartbeat{path}",
            method=method,
            headers={**AS_OPERATOR, **headers},
            status=status,
            **given,
        )

    return call


def add_flow(call: Call, name: str, *, status: int = 201, **members: object) -> Any:
    """Add a flow of the handler `count`."""
    body = {"name": name, "handler": "count", "every": "10m", **members}
    return call("POST", "/flows", body, status=status)


def path_of(reply: Any) -> str:
    """Return the path that a reply's `Location` names."""
    return str(urlsplit(reply.headers["Location"]).path)


def row_of(dbsession: Session, name: str) -> DataFlow:
    """Return a flow's row as it is now."""
    dbsession.rollback()
    return dbsession.scalars(select(DataFlow).where(DataFlow.name == name)).one()


def runs_of(dbsession: Session, name: str) -> list[DataFlowRun]:
    """Return a flow's runs as they are now, oldest first."""
    dbsession.rollback()
    runs = select(DataFlowRun).join(DataFlowRun.data_flow).where(DataFlow.name == name)
    return [*dbsession.scalars(runs.order_by(DataFlowRun.id))]
