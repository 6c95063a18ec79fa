"""The report of a beat, for its reply and its row."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import bindparam, insert, update
from sqlalchemy.orm import Session

from ..core import Heartbeat
from ..db import begin_writing
from ..events import BeatReport
from ..models import DataFlowBeat, RunStatus, table_of
from ..run import ClaimedRun

# On the table: see `finish.py`.
_BEAT = table_of(DataFlowBeat)
_CHANGE_BEAT = update(_BEAT).where(_BEAT.c.id == bindparam("beat"))


class Tally:
    """The counts of a beat in progress, which its threads change, and its row."""

    def __init__(self, heartbeat: Heartbeat, source: str) -> None:
        self._heartbeat, self._source = heartbeat, source
        self.began = heartbeat.clock.monotonic()
        self._so_far = BeatReport(heartbeat.clock.now())
        self._changing = threading.Lock()
        self.row_id: int | None = None

    @property
    def in_progress(self) -> int:
        """How many runs of the beat have not ended."""
        return self._so_far.flows_in_progress

    def report(self) -> BeatReport:
        """Return the report as it is now."""
        with self._changing:
            duration = round(self._heartbeat.clock.monotonic() - self.began, 6)
            return replace(self._so_far, duration=duration, run_ids=[*self._so_far.run_ids])

    def add_note(self, note: str) -> None:
        """Add a sentence for the caller to the reply."""
        self._so_far.note = note

    def count_due(self, flows: int) -> None:
        """Count flows that are due."""
        self._so_far.flows_due += flows

    def count_reaped(self, runs: int) -> None:
        """Count runs that were reaped."""
        self._so_far.runs_reaped += runs

    def count_claimed(self, runs: Sequence[ClaimedRun]) -> None:
        """Count claimed runs."""
        with self._changing:
            self._so_far.flows_triggered += len(runs)
            self._so_far.flows_in_progress += len(runs)
            self._so_far.run_ids += [run.id for run in runs]

    def count_released(self, runs: Sequence[ClaimedRun]) -> None:
        """Count runs no longer that were released."""
        with self._changing:
            self._so_far.flows_triggered -= len(runs)
            self._so_far.flows_in_progress -= len(runs)
            for run in runs:
                self._so_far.run_ids.remove(run.id)

    def count_ended(self, status: RunStatus, runs: int = 1) -> None:
        """Count runs that have ended."""
        with self._changing:
            self._so_far.flows_in_progress -= runs
            if status == RunStatus.SUCCESS:
                self._so_far.flows_succeeded += runs
            else:
                self._so_far.flows_failed += runs

    def save(self, session: Session, recorded: int = 0) -> BeatReport:
        """Insert the beat's row, or bring its counts up to date; return its report.

        recorded: how many successes the transaction of `session` has recorded.
        """
        report = self.report()
        report.flows_succeeded += recorded
        report.flows_in_progress -= recorded
        if self.row_id is None:
            begin_writing(session, self._heartbeat.waiting_beats)
            self.row_id = self.insert(session)
        else:
            session.connection().execute(_CHANGE_BEAT, {"beat": self.row_id, **report.counts()})
        return report

    def insert(self, session: Session) -> int:
        """Insert the beat's row; return its id, which the caller keeps when it has committed."""
        report = self.report()
        row = {"received_at": report.timestamp, "source": self._source[:200], **report.counts()}
        key: Any = session.connection().execute(insert(_BEAT), row).inserted_primary_key
        return int(key.id)
