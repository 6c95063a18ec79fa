"""One process, one flow, one crash: what becomes of the run, step by step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from .audit import Facts, Span, audit
from .conftest import on
from .faults import plant
from .processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from .audit import FlowRun, History
    from .conftest import MakeSite
    from .processes import Process, Project, Site

pytestmark = [pytest.mark.install, pytest.mark.slow, pytest.mark.chaos]

ACCEPTED = 202


def begin_run(site: Site, process: Process) -> FlowRun:
    """Let a process begin the run of the flow that holds on; give its row."""
    assert process.beat(wait=0).status == ACCEPTED
    wait_until((site.folder / "inside").exists, "the flow begins")
    (run,) = site.history().runs
    assert (run.status, run.process) == ("in_progress", process.id)
    return run


def let_go(site: Site) -> None:
    """Let the flows that hold on come to their end, now and from now on."""
    (site.folder / "let go").touch()


def wait_until_expired(site: Site) -> None:
    """Wait until the lease of the only run has ended, which nobody renews any more."""
    (run,) = site.history().runs
    wait_until(lambda: (run.lease_expires_at or run.slot) < datetime.now(UTC), "the lease ends")


def calm(site: Site, process: Process) -> History:
    """Beat until a beat leaves nothing in progress; give what has happened."""
    wait_until(lambda: process.beat().status == 200, "a beat ends")
    return site.history()


def facts_about(process: Process, since: datetime) -> Facts:
    """Say that a process was disturbed from then until now, for the audit."""
    facts = Facts()
    facts.disturbed[process.id].append(Span(since, datetime.now(UTC)))
    return facts


@pytest.mark.parametrize("on_lost", ["fail", "retry"])
def test_a_killed_run_is_reaped_by_the_first_beat_after_its_lease(
    make_site: MakeSite, on_lost: str
) -> None:
    site = make_site(f"hold {on_lost}")
    doomed, other = site.start_all(2)
    run = begin_run(site, doomed)

    doomed.kill()
    killed_at = datetime.now(UTC)
    let_go(site)
    wait_until_expired(site)
    reply = other.beat()

    assert reply.body["runs_reaped"] == 1
    assert reply.body["flows_triggered"] >= 1
    history = calm(site, other)
    lost, after, *_ = history.runs
    assert (lost.id, lost.status, lost.error_type) == (run.id, "failed", "LeaseExpired")
    assert {row.run_id for row in history.rows}.isdisjoint({run.id})
    fate = (after.trigger, after.attempt, after.slot == run.slot, after.status)
    if on_lost == "retry":
        assert fate == ("retry", 2, True, "success")
    else:
        assert fate == ("schedule", 1, False, "success")
    assert audit(history, facts_about(doomed, killed_at)) == []


def test_the_audit_finds_a_lost_slot_that_is_not_due_again(
    make_site: MakeSite, project: Project, tmp_path: Path
) -> None:
    site = make_site("hold retry", plant("retry", project.source, tmp_path))
    doomed, other = site.start_all(2)
    begin_run(site, doomed)

    doomed.kill()
    killed_at = datetime.now(UTC)
    let_go(site)
    wait_until_expired(site)
    other.beat()

    found = audit(calm(site, other), facts_about(doomed, killed_at))
    assert "lost" in {violation.kind for violation in found}, found


@pytest.mark.parametrize(
    ("database", "flow"),
    [
        # Where it has written, nobody can reap it: see below.
        on("sqlite", "hold unwritten"),
        on("postgresql", "hold unwritten"),
        on("postgresql", "hold retry"),
        on("mysql", "hold retry"),
    ],
    indirect=["database"],
)
def test_a_run_that_goes_on_after_it_was_reaped_commits_nothing(
    make_site: MakeSite, flow: str
) -> None:
    site = make_site(flow)
    stalled, other = site.start_all(2)
    run = begin_run(site, stalled)

    stalled.stop()
    stopped_at = datetime.now(UTC)
    wait_until_expired(site)
    reply = other.beat(wait=5)
    assert reply.body["runs_reaped"] == 1
    assert [run.status for run in site.history().runs] == ["failed", "in_progress"]
    stalled.go_on()
    facts = facts_about(stalled, stopped_at)
    let_go(site)

    wait_until(lambda: f"run {run.id} is no longer ours" in stalled.log, "it is fenced out")
    history = calm(site, other)
    reaped, again, *_ = history.runs
    assert (reaped.id, reaped.status, reaped.error_type) == (run.id, "failed", "LeaseExpired")
    assert (again.slot, again.attempt, again.status) == (run.slot, 2, "success")
    assert run.id in history.done
    assert {row.run_id for row in history.rows}.isdisjoint({run.id})
    assert audit(history, facts) == []


@pytest.mark.parametrize("database", [on("sqlite")], indirect=True)
def test_on_sqlite_a_run_that_has_written_is_reaped_by_nobody(make_site: MakeSite) -> None:
    site = make_site("hold retry")
    stalled, other = site.start_all(2)
    run = begin_run(site, stalled)

    stalled.stop()
    stopped_at = datetime.now(UTC)
    wait_until_expired(site)
    replies = [other.beat(), other.beat()]
    stalled.go_on()
    facts = facts_about(stalled, stopped_at)
    let_go(site)

    assert sum(reply.body["runs_reaped"] for reply in replies) == 0
    wait_until(lambda: run.id in site.history().done, "the flow comes to its end")
    history = calm(site, other)
    first, *others = history.runs
    assert (first.id, first.status, first.rows) == (run.id, "success", 2)
    assert first.ended_at is not None
    assert first.ended_at - stopped_at > timedelta(0)
    assert {other.slot for other in others}.isdisjoint({run.slot})
    assert audit(history, facts) == []
