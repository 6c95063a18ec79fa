"""Chaos and storms, as short as they still tell something, and faults that they must find."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from test_project import server_url

from .audit import LAST_DAY, Span
from .beating import Chaos
from .broker import VARIABLES, Broker
from .conftest import on
from .faults import plant
from .handing import WORKER_DEEDS, HandingOver
from .network import CLAIM, TROUBLES
from .processes import Site, wait_until
from .storm import BEATS, FLOWS, storm

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import MakeSite
    from .databases import Database
    from .processes import Project

pytestmark = [pytest.mark.install, pytest.mark.slow, pytest.mark.chaos]

SECONDS = 25.0
# A broker alone is silent for 30 seconds.
CELERY_SECONDS = 75.0
ROUNDS = 3


def test_after_chaos_every_slot_and_every_row_is_accounted_for(
    make_site: MakeSite, database: Database, seed: int
) -> None:
    outcome = Chaos(make_site("mixture"), database, seed, SECONDS).run()

    assert not outcome.violations, outcome
    print(outcome)
    deeds = outcome.figures
    assert deeds["kills"] + deeds["long stops"] > 0, outcome
    assert deeds["database restarts"] == database.crashes, outcome
    assert bool(sum(deeds[trouble] for trouble in TROUBLES)) == database.crashes, outcome


@pytest.mark.parametrize("database", [on("postgresql"), on("mysql")], indirect=True)
@pytest.mark.parametrize("kind", VARIABLES)
def test_after_chaos_among_celery_workers_all_is_accounted_for(
    celery_project: Project, database: Database, tmp_path: Path, kind: str, seed: int
) -> None:
    server_url(kind)
    broker = Broker(kind)
    project = replace(celery_project, settings=broker.settings)
    site = Site(project, tmp_path / "site", database.url(f"chaos_celery_{kind}"), "mixture")
    try:
        outcome = HandingOver(site, database, broker, seed, CELERY_SECONDS).run()
    finally:
        site.close()
        broker.close(site)

    assert not outcome.violations, outcome
    print(outcome)
    deeds = outcome.figures
    assert deeds["silences"], outcome
    assert deeds["cuts"] + deeds["outages"], outcome
    assert deeds["messages repeated"], outcome
    assert any(deeds[deed] for deed in WORKER_DEEDS), outcome


def test_in_a_storm_of_beats_each_flow_runs_once_a_round(
    make_site: MakeSite, database: Database
) -> None:
    outcome = storm(make_site("many"), database, ROUNDS)

    assert not outcome.violations, outcome
    assert outcome.figures["success"] == outcome.figures["rows"] == ROUNDS * FLOWS
    assert outcome.figures["beats"] >= ROUNDS * BEATS


def test_chaos_finds_that_the_guard_is_missing(
    make_site: MakeSite, database: Database, project: Project, tmp_path: Path, seed: int
) -> None:
    source = plant("guard", project.source, tmp_path)

    outcome = Chaos(make_site("mixture", source), database, seed, SECONDS).run()

    found = {violation.kind for violation in outcome.violations}
    assert found & {"duplicate", "half-written", "window"}, outcome


class Silenced(Chaos):
    """Chaos in which the claim of each process is never answered, and nothing else is done."""

    def harm(self) -> None:
        """Silence a commit of each process, and wait until it was sent."""
        for place in self.places:
            assert place.process.network
            trap = place.process.network.set_trap("SILENT", CLAIM)
            wait_until(trap.sprung.is_set, "it claims")
            self.facts.cut_off[place.process.id].append(Span(datetime.now(UTC), LAST_DAY))


@pytest.mark.parametrize("database", [on("postgresql"), on("mysql")], indirect=True)
@pytest.mark.parametrize("fault", [None, "limit"])
def test_chaos_finds_processes_that_wait_for_an_answer_for_ever(
    make_site: MakeSite,
    database: Database,
    project: Project,
    tmp_path: Path,
    *,
    fault: str | None,
) -> None:
    source = plant(fault, project.source, tmp_path) if fault else None

    chaos = Silenced(make_site("mixture", source), database, 0, SECONDS)
    if fault:  # they never recover
        chaos.patience = 60.0

    outcome = chaos.run()

    found = [str(violation) for violation in outcome.violations if violation.kind == "stuck"]
    assert any("claims nothing any more" in text for text in found) is bool(fault), outcome
    assert fault or not outcome.violations, outcome


def test_a_storm_finds_that_the_lock_is_missing(
    make_site: MakeSite, database: Database, project: Project, tmp_path: Path
) -> None:
    source = plant("lock", project.source, tmp_path)

    outcome = storm(make_site("many", source), database, rounds=1)

    assert "duplicate" in {violation.kind for violation in outcome.violations}, outcome
