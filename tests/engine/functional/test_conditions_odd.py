"""Whatever a condition raises or returns: only its own flow waits, with the reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlow
from data_flows.heartbeat.redaction import LONGEST_MESSAGE

from ..conftest import MakeApp, heartbeat_of
from ..odd_errors import HUGE, NAMES, ODD, blow

Post = Callable[..., Any]


@pytest.mark.parametrize("make", ODD, ids=NAMES)
def test_a_condition_with_any_error_holds_its_own_flow_alone(
    make_app: MakeApp,
    post: Post,
    dbsession: Session,
    make: Callable[[Path], BaseException],
    tmp_path: Path,
) -> None:
    def when(_run: Run) -> None:
        raise make(tmp_path)

    def held(_run: Run) -> None:
        """Never run."""

    app = make_app((held, {"when": when}), (lambda _run: None, {"name": "free"}))

    reply = post(app).json

    assert (reply["flows_due"], reply["flows_succeeded"]) == (1, 1)
    because = dbsession.scalars(select(DataFlow.held_because).filter_by(name="held")).one() or ""
    assert because.startswith("its condition failed: ")
    assert len(because) <= LONGEST_MESSAGE


class _Odd:
    """An answer that is neither true nor false."""

    __bool__ = __str__ = __repr__ = blow


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("a\0b \ud800 🦉", "a\N{REPLACEMENT CHARACTER}b ? 🦉"),
        ("password=hunter2", "password=***"),
        ("x" * HUGE, "xxxxx"),
        (_Odd(), "its condition failed: Blow"),
        (type("OddText", (str,), {"__len__": blow, "__str__": blow})("said"), "its condition"),
    ],
    ids=["characters", "secret", "huge", "neither", "text"],
)
def test_any_answer_of_a_condition_is_kept(
    make_app: MakeApp, post: Post, dbsession: Session, answer: object, reason: str
) -> None:
    def held(_run: Run) -> None:
        """Never run."""

    app = make_app((held, {"when": lambda _run: answer}), (lambda _run: None, {"name": "free"}))

    reply = post(app).json

    assert (reply["flows_due"], reply["flows_succeeded"]) == (1, 1)
    because = dbsession.scalars(select(DataFlow.held_because).filter_by(name="held")).one() or ""
    assert because.startswith(reason)
    assert len(because) <= LONGEST_MESSAGE


def test_a_condition_of_a_name_that_cannot_be_stored_whole_stops_no_other_flow(
    narrow_url: str, make_app: MakeApp, post: Post
) -> None:
    del narrow_url  # which DATABASE_URL names
    held = {"name": "🦉" * 200, "when": lambda _run: "not yet"}
    app = make_app((lambda _run: None, held), (lambda _run: None, {"name": "free"}))

    assert post(app).json["flows_succeeded"] == 1


def test_a_reason_is_kept_whatever_the_default_character_set_is(
    narrow_url: str, character_set: str, make_app: MakeApp, post: Post
) -> None:
    del narrow_url  # which DATABASE_URL names
    app = make_app((lambda _run: None, {"name": "held", "when": lambda _run: "Käuzchen 🦉"}))

    assert post(app).json["flows_due"] == 0

    with heartbeat_of(app).session() as session:
        reason = session.scalars(select(DataFlow.held_because)).one()
    escapes = {"LATIN1": r"Käuzchen \U0001f989", "SQL_ASCII": r"K\xe4uzchen \U0001f989"}
    assert reason == escapes.get(character_set, "Käuzchen 🦉")
