"""The audit finds what breaks a rule, and finds nothing in a history that keeps them all."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from .audit import (
    Facts,
    Flow,
    FlowRun,
    History,
    Refusal,
    Row,
    Span,
    Violation,
    audit,
    audit_storm,
)
from .faults import FAULTS, plant

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Render

START = datetime(2030, 1, 1, tzinfo=UTC)
STEP = timedelta(seconds=10)
LENGTH = timedelta(seconds=2)
PROCESS = 77


def at(number: float) -> datetime:
    """Give the time of a slot."""
    return START + number * STEP


def make_run(number: int, slot: int, attempt: int = 1, begun: int | None = None) -> FlowRun:
    """Give a run that has succeeded, begun at its slot or at another one."""
    started_at = at(slot if begun is None else begun)
    return FlowRun(
        id=number,
        flow_id=1,
        status="success",
        trigger="schedule" if attempt == 1 else "retry",
        slot=at(slot),
        attempt=attempt,
        missed_slots=0,
        window_start=at(slot - 1),
        window_end=at(slot),
        started_at=started_at,
        ended_at=started_at + LENGTH,
        lease_expires_at=started_at + LENGTH,
        worker=f"host:{PROCESS}:2030-01-01T00:00:00+00:00",
        error_type=None,
        error_message=None,
        rows=2,
    )


def failed(run: FlowRun, error_type: str) -> FlowRun:
    """Let a run have failed instead."""
    return replace(run, status="failed", error_type=error_type, rows=0)


def rows_of(run: FlowRun, *parts: str) -> list[Row]:
    """Give the rows that the flow wrote in a run."""
    assert run.started_at is not None
    begun_at, written_at = run.started_at, run.started_at + LENGTH / 2
    return [
        Row(run.id, "the flow", run.slot, run.attempt, part, begun_at, written_at) for part in parts
    ]


def make_history(*runs: FlowRun, on_lost: str = "retry") -> History:
    """Give a history in which everything else agrees with these runs."""
    last = max(runs, key=lambda run: run.ended_at or START)
    successes = [run for run in runs if run.succeeded]
    flow = Flow(
        id=1,
        name="the flow",
        kind="slow",
        on_lost=on_lost,
        every=STEP,
        next_run_at=runs[-1].slot + STEP,
        last_slot_at=runs[-1].slot,
        last_run_at=last.ended_at,
        last_run_status=last.status,
        last_success_at=max(run.ended_at or START for run in successes),
        window_starts_at=max(run.window_end for run in successes),
    )
    return History(
        flows=[flow],
        runs=list(runs),
        rows=[row for run in successes for row in rows_of(run, "first", "last")],
        beats=3,
        done=[run.id for run in successes],
    )


def killed(*moments: float) -> Facts:
    """Say when the process was killed, in slots."""
    facts = Facts(answered=3)
    facts.disturbed[PROCESS] = [Span(at(moment), at(moment)) for moment in moments]
    return facts


def cut_off(*moments: float) -> Facts:
    """Say when the process could not reach its database, in slots."""
    facts = Facts(answered=3)
    facts.cut_off[PROCESS] = [Span(at(moment), at(moment)) for moment in moments]
    return facts


FIRST, SECOND = make_run(1, 1), make_run(2, 2)
FOURTH = replace(make_run(3, 4), missed_slots=1, window_start=at(2))
SOUND = make_history(FIRST, SECOND, FOURTH)
LOST = failed(SECOND, "LeaseExpired")
AGAIN = make_run(3, 2, attempt=2, begun=3)
RETRIED = make_history(FIRST, LOST, AGAIN)
NO_ROWS = [replace(run, rows=0) for run in SOUND.runs]
ELSEWHERE = replace(SOUND, flows=[replace(SOUND.flows[0], kind="elsewhere")], runs=NO_ROWS, rows=[])
LOST_FOR_GOOD = make_history(FIRST, LOST, on_lost="fail")


@pytest.mark.parametrize(
    ("history", "facts"),
    [
        (SOUND, Facts(answered=3)),
        (RETRIED, killed(2.1)),
        (LOST_FOR_GOOD, killed(2.1)),
        (LOST_FOR_GOOD, Facts(outages=[Span(at(1.9), at(2.05))])),
        (LOST_FOR_GOOD, cut_off(2.1)),
        (make_history(FIRST, failed(SECOND, "OperationalError"), on_lost="fail"), cut_off(2.1)),
        (
            SOUND,
            replace(cut_off(2.1), refused=[Refusal(Span(at(2), at(2.2)), PROCESS, "503: away")]),
        ),
        (ELSEWHERE, Facts(answered=3)),
    ],
)
def test_a_sound_history_passes(history: History, facts: Facts) -> None:
    assert audit(history, facts) == []


def with_runs(history: History, *runs: FlowRun) -> History:
    """Exchange the runs, and nothing else."""
    return replace(history, runs=list(runs))


def with_flow(flow: Flow) -> History:
    """Exchange the flow's row in the sound history."""
    return replace(SOUND, flows=[flow])


FLOW = SOUND.flows[0]
# What must be found: a part of its text, its kind, and where.
UNSOUND = {
    "attempt 1 twice": (
        "duplicate",
        make_history(FIRST, SECOND, failed(make_run(4, 2, begun=3), "LeaseExpired")),
        killed(3),
    ),
    "two successes": (
        "duplicate",
        make_history(FIRST, SECOND, AGAIN),
        Facts(),
    ),
    "before the other had ended": (
        "duplicate",
        with_runs(SOUND, FIRST, replace(SECOND, ended_at=at(4.1)), FOURTH),
        Facts(),
    ),
    "after it had begun anew": (
        "duplicate",
        replace(SOUND, rows=[*SOUND.rows[:-1], replace(SOUND.rows[-1], begun_at=at(2.05))]),
        Facts(),
    ),
    "executed 2 times": ("duplicate", replace(SOUND, done=[1, 2, 2, 3]), Facts()),
    "tried again after failed, PlannedError": (
        "duplicate",
        make_history(FIRST, failed(SECOND, "PlannedError"), AGAIN),
        killed(2.1),
    ),
    "tried again after failed, LeaseExpired": (
        "duplicate",
        make_history(FIRST, LOST, AGAIN, on_lost="fail"),
        killed(2.1),
    ),
    "the first slot counts": (
        "lost",
        with_runs(SOUND, replace(FIRST, missed_slots=1), SECOND, FOURTH),
        Facts(),
    ),
    "backfill": (
        "record",
        with_runs(SOUND, FIRST, replace(SECOND, trigger="backfill"), FOURTH),
        Facts(),
    ),
    "a retry says schedule": (
        "record",
        make_history(FIRST, LOST, replace(AGAIN, trigger="schedule")),
        killed(2.1),
    ),
    "{'first': 1, 'undone': 1} are there": (
        "half-written",
        replace(SOUND, rows=[*SOUND.rows[:5], replace(SOUND.rows[5], part="undone")]),
        Facts(),
    ),
    "success, from None to": (
        "record",
        with_runs(SOUND, FIRST, replace(SECOND, started_at=None), FOURTH),
        Facts(),
    ),
    "its window goes from": (
        "window",
        with_runs(SOUND, FIRST, SECOND, replace(FOURTH, window_end=at(5))),
        Facts(),
    ),
    "succeeded, and raises": ("harmed", with_flow(replace(FLOW, kind="failing")), Facts()),
    "runs [9] of no flow": (
        "record",
        with_runs(SOUND, *SOUND.runs, replace(make_run(9, 9), flow_id=2)),
        Facts(),
    ),
    "ended with 1": ("harmed", SOUND, Facts(others=[Violation("harmed", "ended with 1")])),
    "never tried again": ("lost", make_history(FIRST, LOST), killed(2.1)),
    "its attempts are [1, 3]": (
        "lost",
        make_history(FIRST, LOST, replace(AGAIN, attempt=3)),
        killed(2.1),
    ),
    "1 slots lie between, 0 are counted": (
        "lost",
        with_runs(SOUND, FIRST, SECOND, replace(FOURTH, missed_slots=0)),
        Facts(),
    ),
    "0 slots lie between, 1 are counted": (
        "lost",
        with_runs(SOUND, FIRST, replace(SECOND, missed_slots=1), FOURTH),
        Facts(),
    ),
    "not on the grid": (
        "lost",
        with_runs(SOUND, FIRST, replace(SECOND, slot=at(2.5)), FOURTH),
        Facts(),
    ),
    "the flow's last slot is": ("lost", with_flow(replace(FLOW, next_run_at=at(6))), Facts()),
    "other: never ran": (
        "lost",
        replace(SOUND, flows=[*SOUND.flows, replace(SOUND.flows[0], id=2, name="other")]),
        Facts(),
    ),
    "a success with {'last': 1} instead of 2 rows": (
        "half-written",
        replace(SOUND, rows=SOUND.rows[1:]),
        Facts(),
    ),
    "a success with {} instead of 0 rows": (
        "half-written",
        replace(ELSEWHERE, flows=SOUND.flows),
        Facts(),
    ),
    "a success with {'first': 2, 'last': 1} instead of 2 rows": (
        "half-written",
        replace(SOUND, rows=[*SOUND.rows, SOUND.rows[0]]),
        Facts(),
    ),
    "failed (LeaseExpired), and {'first': 1} are there": (
        "half-written",
        replace(RETRIED, rows=[*RETRIED.rows, *rows_of(LOST, "first")]),
        killed(2.1),
    ),
    "a row of no such run": (
        "half-written",
        replace(SOUND, rows=[*SOUND.rows, *rows_of(make_run(9, 2), "first")]),
        Facts(),
    ),
    "the flow never came to its end": ("half-written", replace(SOUND, done=[1, 3]), Facts()),
    "in_progress, by host": (
        "stuck",
        with_runs(SOUND, FIRST, SECOND, replace(FOURTH, status="in_progress", ended_at=None)),
        Facts(),
    ),
    "the window begins at 2030-01-01 00:00:15": (
        "window",
        with_runs(SOUND, FIRST, replace(SECOND, window_start=at(1.5)), FOURTH),
        Facts(),
    ),
    "the window begins at 2030-01-01 00:00:10": (
        "window",
        with_runs(SOUND, FIRST, SECOND, replace(FOURTH, window_start=at(1))),
        Facts(),
    ),
    "the retry's window differs": (
        "window",
        make_history(FIRST, replace(LOST, window_end=at(1.5)), AGAIN),
        killed(2.1),
    ),
    "the flow's next window begins": (
        "window",
        with_flow(replace(FLOW, window_starts_at=at(3))),
        Facts(),
    ),
    "the flow says success at": ("record", with_flow(replace(FLOW, last_run_at=at(1))), Facts()),
    "the flow says failed at": (
        "record",
        with_flow(replace(FLOW, last_run_status="failed")),
        Facts(),
    ),
    "succeeded last at": ("record", with_flow(replace(FLOW, last_success_at=None)), Facts()),
    "but the flow worked from": (
        "record",
        with_runs(SOUND, FIRST, replace(SECOND, ended_at=at(2.01)), FOURTH),
        Facts(),
    ),
    "4 beats said that they had ended, 3 have rows": ("record", SOUND, Facts(answered=4)),
    "LeaseExpired after": ("harmed", LOST_FOR_GOOD, killed(1.1)),
    "OperationalError after": (
        "harmed",
        make_history(FIRST, failed(SECOND, "OperationalError"), on_lost="fail"),
        killed(2.1),
    ),
    "was answered 500": (
        "harmed",
        SOUND,
        Facts(refused=[Refusal(Span(at(2), at(2.1)), PROCESS, "500: an unexpected error")]),
    ),
    "was answered 503": (
        "harmed",
        SOUND,
        Facts(
            refused=[Refusal(Span(at(2), at(2.1)), PROCESS, "503: away")],
            cut_off=defaultdict(list, {PROCESS + 1: [Span(at(0), at(9))]}),
        ),
    ),
    "was answered 500: in the silence": (
        "harmed",
        SOUND,
        replace(
            cut_off(2.1), refused=[Refusal(Span(at(2), at(2.1)), PROCESS, "500: in the silence")]
        ),
    ),
    "LookupError after": (
        "harmed",
        make_history(FIRST, failed(SECOND, "LookupError"), on_lost="fail"),
        cut_off(2.1),
    ),
}


@pytest.mark.parametrize("text", UNSOUND)
def test_what_breaks_a_rule_is_found_and_named(text: str) -> None:
    kind, history, facts = UNSOUND[text]

    found = audit(history, facts)

    assert kind in {violation.kind for violation in found if text in violation.text}, found


def test_a_violation_names_flow_slot_and_runs() -> None:
    _, history, facts = UNSOUND["two successes"]

    (text,) = (found.text for found in audit(history, facts) if "two successes" in found.text)

    assert text.startswith("the flow ")
    assert at(2).isoformat() in text
    assert "run 2, 3:" in text


def test_a_storm_asks_for_one_success_a_round() -> None:
    sound = make_history(make_run(1, 1), make_run(2, 7))
    sound = replace(sound, rows=[row for row in sound.rows if row.part == "first"])
    sound = with_runs(sound, *(replace(run, rows=1) for run in sound.runs))

    assert audit_storm(sound, 2) == []
    assert {found.kind for found in audit_storm(sound, 3)} == {"lost"}
    assert {found.kind for found in audit_storm(sound, 1)} == {"duplicate"}


def test_the_faults_fit_the_engine(render: Render, tmp_path: Path) -> None:
    """A fault that is no longer one would let its test find nothing, and say so late."""
    source = render() / "src"

    for fault in FAULTS:
        copy = plant(fault, source, tmp_path)
        assert (copy / "data_flows" / "heartbeat").is_dir()
