"""A storm: many beats at the same moment, again and again, when all flows are due at once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

from .audit import Violation, audit_storm
from .beating import OK
from .outcome import Outcome
from .processes import PATIENCE_SECONDS

if TYPE_CHECKING:
    from .databases import Database
    from .processes import Process, Reply, Site

PROCESSES = 4
BEATS = 50
FLOWS = 200


def storm(site: Site, database: Database, rounds: int) -> Outcome:
    """Let it break loose so often; give what came of it."""
    processes = site.start_all(PROCESSES)
    replies: list[Reply] = []
    violations: list[Violation] = []
    for number in range(1, rounds + 1):
        if number > 1:
            site.ask("due")
        replies += all_at_once(processes)
        replies += until_nothing_is_due(processes)
        history = site.history()
        violations = audit_storm(history, number)
        if len(history.flows) != FLOWS:
            violations.append(Violation("lost", f"{len(history.flows)} flows are registered"))
        if violations:
            break
    site.close()
    for reply in replies:
        if reply.status != OK:
            text = f"a beat at {reply.sent_at} was answered {reply.status}: {reply.body}"
            violations.append(Violation("harmed", text))
    figures = {
        "rounds": number,
        "beats": len(replies),
        "beats at once": BEATS,
        "flows": len(history.flows),
        "runs": len(history.runs),
        "success": sum(run.succeeded for run in history.runs),
        "rows": len(history.rows),
    }
    return Outcome(None, database.kind, figures, violations)


def all_at_once(processes: list[Process]) -> list[Reply]:
    """Beat from many threads at once, and give all answers."""
    barrier = Barrier(BEATS, timeout=PATIENCE_SECONDS)

    def beat(number: int) -> Reply:
        barrier.wait()
        return processes[number % len(processes)].beat(wait=60)

    with ThreadPoolExecutor(BEATS) as pool:
        return list(pool.map(beat, range(BEATS)))


def until_nothing_is_due(processes: list[Process]) -> list[Reply]:
    """Beat in turn until a beat finds nothing due and leaves nothing in progress."""
    replies: list[Reply] = []
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        reply = processes[len(replies) % len(processes)].beat(wait=60)
        replies.append(reply)
        if not (reply.body.get("flows_due", 1) or reply.body.get("flows_in_progress", 1)):
            break
    return replies
