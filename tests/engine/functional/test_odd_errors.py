"""Whatever a flow raises, logs or returns: its run ends, with the reason."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlow, DataFlowRun
from data_flows.heartbeat.redaction import LONGEST_BACKTRACE, LONGEST_MESSAGE
from data_flows.heartbeat.run_log import LONGEST_LOG

from ..conftest import MakeApp
from ..notes import Note
from ..odd_errors import HUGE, NAMES, ODD, blow, made_of

Post = Callable[..., Any]

ONE_WORKER = {"heartbeat.workers": "1"}


def run_of(dbsession: Session, name: str) -> DataFlowRun:
    dbsession.rollback()
    return dbsession.scalars(
        select(DataFlowRun).join(DataFlowRun.data_flow).where(DataFlow.name == name)
    ).one()


# ---------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize("make", ODD, ids=NAMES)
def test_a_run_with_any_error_is_failed_and_its_worker_goes_on(
    make_app: MakeApp,
    post: Post,
    dbsession: Session,
    make: Callable[[Path], BaseException],
    tmp_path: Path,
) -> None:
    def fail(_run: Run) -> None:
        raise make(tmp_path)

    def after(_run: Run) -> None:
        """Run on the same worker, when the other one has ended."""

    app = make_app((fail, {"name": "1 fail"}), (after, {"name": "2 after"}), **ONE_WORKER)

    reply = post(app, Prefer="wait=60").json

    assert (reply["flows_failed"], reply["flows_succeeded"]) == (1, 1)
    row = run_of(dbsession, "1 fail")
    assert row.status == "failed"
    assert row.error_type
    assert len(row.error_message or "") <= LONGEST_MESSAGE
    assert "Traceback (most recent call last):" in (row.error_backtrace or "")
    assert len(row.error_backtrace or "") <= LONGEST_BACKTRACE
    assert run_of(dbsession, "2 after").status == "success"


@pytest.mark.usefixtures("notes")
def test_a_database_error_whose_notes_the_flow_has_spoilt_is_recorded(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    def work(run: Run) -> None:
        try:
            run.session.execute(insert(Note).values(name=None, mark="x", size=1))
        except Exception as error:  # noqa: BLE001 - the flow swallows it
            vars(error)["__notes__"] = 5
        run.session.execute(insert(Note).values(name=None, mark="x", size=1))

    reply = post(make_app(work)).json

    assert reply["flows_failed"] == 1
    assert (run_of(dbsession, "work").error_type or "").endswith("Error")


# ---------------------------------------------------------------------------------------------
# Log lines


@pytest.mark.usefixtures("notes")
@pytest.mark.parametrize(
    "argument",
    [
        made_of(__str__=blow, __repr__=blow),
        type("Exits", (), {"__str__": lambda _self: exit(3), "__repr__": blow})(),  # noqa: PLR1722
        type("Wrong", (), {"__str__": lambda _self: 5})(),
    ],
    ids=["blows", "exits", "wrong"],
)
def test_a_log_line_that_cannot_be_formatted_costs_a_run_nothing(
    make_app: MakeApp,
    post: Post,
    dbsession: Session,
    caplog: pytest.LogCaptureFixture,
    argument: object,
) -> None:
    caplog.set_level(logging.INFO)

    def work(run: Run) -> None:
        run.session.add(Note(name="written", mark="written", size=1))
        run.log.info("before")
        run.log.info("it is %s", argument)
        run.log.info(argument)
        run.log.info("after")

    assert post(make_app(work)).json["flows_succeeded"] == 1

    row = run_of(dbsession, "work")
    lines = [line.split(maxsplit=3)[-1] for line in (row.log or "").splitlines()]
    assert lines == ["before", "after"]
    assert dbsession.scalar(select(func.count()).select_from(Note)) == 1
    # The application's own handlers get a line that they can format.
    assert caplog.messages.count("(a line that could not be formatted)") == 2


@pytest.mark.parametrize("make", ODD, ids=NAMES)
def test_any_error_can_be_logged_by_its_flow(
    make_app: MakeApp,
    post: Post,
    dbsession: Session,
    make: Callable[[Path], BaseException],
    tmp_path: Path,
) -> None:
    def work(run: Run) -> None:
        error = make(tmp_path)
        run.log.error("survived", exc_info=(type(error), error, None))
        run.log.info("after")

    assert post(make_app(work)).json["flows_succeeded"] == 1

    row = run_of(dbsession, "work")
    first, *_backtrace, last = (row.log or "").splitlines()
    # A backtrace that is too long for the log is counted as one line.
    assert last == "(1 more lines)" or (first[-8:], last[-5:]) == ("survived", "after")


def test_a_huge_line_and_many_lines_are_counted(
    make_app: MakeApp, post: Post, dbsession: Session
) -> None:
    def work(run: Run) -> None:
        run.log.info("first")
        run.log.info("x" * HUGE)
        run.log.info("%s", "x" * HUGE)
        for number in range(100_000):
            run.log.info("line %d, token=hunter2", number)

    logging.getLogger("data_flows").propagate = False
    try:
        assert post(make_app(work)).json["flows_succeeded"] == 1
    finally:
        logging.getLogger("data_flows").propagate = True

    lines = (run_of(dbsession, "work").log or "").splitlines()
    assert lines[0].endswith("INFO first")
    assert lines[1].endswith("INFO line 0, token=***")
    assert lines[-1] == f"({100_000 + 2 - (len(lines) - 2)} more lines)"
    assert sum(map(len, lines)) <= LONGEST_LOG + 100
