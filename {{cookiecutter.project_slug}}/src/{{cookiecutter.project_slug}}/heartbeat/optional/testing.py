"""Optional: the pytest fixture `run_flow`, which runs a flow in the session of a test.

`tests/conftest.py` imports it. It has no line in `heartbeat/__init__.py`, since pytest is not
installed where the application runs.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy.orm import Session

from ..db.flow_session import flow_transaction, watch_session
from ..definition import FlowDefinition, Handler
from ..json_values import json_problem
from ..registry import OPTIONS, FlowOptions, define
from ..run import ClaimedRun, Window
from ..run_log import RunLog
from ..runs.execute import call_in_session
from ..schedules.rule import MOMENT, slot_before

# The options of a function that neither the decorator nor the test gives any.
HOURLY: FlowOptions = {"every": "1h"}
# What ends the test, and not the flow.
ENDS_TEST = (
    KeyboardInterrupt,
    pytest.exit.Exception,
    pytest.fail.Exception,
    pytest.skip.Exception,
)


@dataclass(frozen=True, slots=True)
class FlowOutcome:
    """How a flow ended: with a result, as its run would store it, or with an error.

    log: the lines of `run.log`, as its run would store them.
    """

    result: Any
    log: str
    error: BaseException | None


class RunFlow:
    """Runs flows in the session of a test, as the engine would: the fixture `run_flow`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._ids = count(1)

    def __call__(
        self,
        function: Handler,
        *,
        configuration: Mapping[str, Any] | BaseModel | None = None,
        window: Window | None = None,
        now: datetime | None = None,
        options: FlowOptions | None = None,
    ) -> FlowOutcome:
        """Run a flow; return its result, its log and its error.

        The flow writes in a savepoint, which is rolled back if it fails. What it wrote before is
        seen in the test's session. Raises an error if the flow cannot be run like this.

        configuration: what the flow's row holds; the declared one by default.
        window: by default the one of the first run of the flow's schedule, at `now`.
        now: an aware time; the current one by default.
        options: those of `config.add_flow`, for a function without the decorator.
        """
        declared: FlowOptions = getattr(function, OPTIONS, HOURLY)
        definition = define(function, declared if options is None else options, "run_flow")
        run = self._first_run(definition, now or datetime.now(UTC), window, configuration)
        run_log = RunLog(run.flow_name)
        result, error = None, None
        self._session.flush()
        connection = self._session.connection()
        watch_session(connection.engine)
        try:
            with flow_transaction(connection) as session, pytest.MonkeyPatch.context() as patch:
                # Too late at the event of the commit: the test's transaction would be unusable.
                for method in ("commit", "rollback"):
                    refuse = partial(session.refuse_control, f"connection().{method}()")
                    patch.setattr(connection, method, refuse)
                result = call_in_session(definition, run, session, run_log)
        except ENDS_TEST:
            raise
        except BaseException as raised:  # noqa: BLE001 - a flow may raise anything
            result, error = None, raised
        finally:
            connection.execution_options(flow_session=None)
            self._session.expire_all()
        return FlowOutcome(json.loads(json.dumps(result)), run_log.text(tuple) or "", error)

    def _first_run(
        self,
        definition: FlowDefinition,
        now: datetime,
        window: Window | None,
        configuration: Mapping[str, Any] | BaseModel | None,
    ) -> ClaimedRun:
        """Return the run that the first beat after a slot would claim."""
        for time in (now, *((window.start, window.end) if window else ())):
            if time.tzinfo is None:
                raise ValueError(f"{time!r} has no time zone: add tzinfo=UTC, for example")
        if window and window.start > window.end:
            raise ValueError(f"the window must not end before its start: {window}")
        slot = now if definition.every else slot_before(definition.rule, now + MOMENT)
        window = window or Window(slot_before(definition.rule, slot), slot)
        return ClaimedRun(
            id=next(self._ids),
            flow_name=definition.name,
            handler=definition.name,
            configuration=_stored(definition, configuration),
            trigger="schedule",
            scheduled_for=slot.astimezone(UTC),
            window_start=window.start.astimezone(UTC),
            window_end=window.end.astimezone(UTC),
            started_at=now,
        )


def _stored(definition: FlowDefinition, configuration: Mapping[str, Any] | BaseModel | None) -> str:
    """Return a configuration as the flow's row holds it. Raises ValueError if it cannot."""
    given: Any = definition.new_configuration() if configuration is None else configuration
    given = given.model_dump(mode="json") if isinstance(given, BaseModel) else dict(given)
    if problem := json_problem(given):
        raise ValueError(f"the configuration cannot be stored as JSON: {problem}")
    return json.dumps(given)


@pytest.fixture
def run_flow(dbsession: Session) -> RunFlow:
    """Run a flow in the test's session, which is rolled back at the end of the test."""
    return RunFlow(dbsession)
