"""What schemathesis sends by the description of the routes is answered as it is described there."""

from typing import Any

import pytest
import schemathesis.openapi
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import select
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat.models import DataFlowRun

from ..conftest import TOKEN, MakeApp
from .conftest import settle
from .operated import AS_OPERATOR, SECRET, as_operator, count

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
CALLERS: dict[str, dict[str, str]] = {
    "operator": AS_OPERATOR,
    "scheduler": {"X-Heartbeat-Token": TOKEN},
    "nobody": {},
    "wrong token": {"Authorization": "Bearer nothing-of-this-engine"},
}
# The same examples each time.
STEADY = settings(
    max_examples=50,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[*HealthCheck],
)
FLOW = {"name": "x", "handler": "count", "every": "1h"}


@pytest.fixture
def app(make_app: MakeApp) -> TestApp:
    """Make an application with a flow that has run, which does not count refused attempts."""
    app = make_app(count, **SECRET)
    wsgi_app: Any = app.app
    wsgi_app.registry["heartbeat.throttle"] = None
    as_operator(app)("POST", "", status=200)
    return app


def strict(document: dict[str, Any]) -> dict[str, Any]:
    """Return a description that forbids members that it does not name."""
    for schema in document["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return document


def aim(case: Case[Any], run_id: int) -> None:
    """Name a flow, a handler and a run that exist: by chance, hardly any request would."""
    case.path_parameters.update({"name": "x", "id": str(run_id)})
    if case.query and "flow" in case.query:
        case.query["flow"] = "x"
    if isinstance(case.body, dict) and "handler" in case.body:
        case.body |= {"handler": "count", "every": "10m", "cron": None, "timezone": "UTC"}


@pytest.mark.slow
@pytest.mark.parametrize("caller", CALLERS)
def test_every_reply_is_one_that_is_described(
    app: TestApp, dbsession: Session, caller: str
) -> None:
    call = as_operator(app)
    document = call("GET", "/openapi.json", status=200).json
    schema = schemathesis.openapi.from_dict(strict(document))
    schema.app = app.app
    [run_id] = dbsession.scalars(select(DataFlowRun.id))
    headers, seen = CALLERS[caller], set()

    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        call("POST", "/flows", FLOW, status="*")  # an earlier operation may have removed it

        @STEADY
        @given(case=operation.as_strategy(), is_aimed=st.booleans())
        def send(case: Case[Any], *, is_aimed: bool) -> None:
            if is_aimed:
                aim(case, run_id)
            response = case.call_and_validate(checks=CHECKS, headers=headers)
            seen.add((case.operation.label, response.status_code))

        send()
        settle()

    labels = {label for label, _status in seen}
    assert len(labels) == sum(len({*each} - {"parameters"}) for each in document["paths"].values())
    if caller == "operator":
        assert labels == {label for label, status in seen if status < 300}
