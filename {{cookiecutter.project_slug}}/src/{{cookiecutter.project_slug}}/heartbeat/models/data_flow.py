"""A flow's row: its schedule, its configuration and what is known of its last run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, WriteOnlyMapped, mapped_column, object_session, relationship

from ..schedules.every import CRON_INTERVAL, EARLY_MOST, EARLY_SHARE, SKEW_MOST
from .data_flow_run import DataFlowRun
from .meta import Dated, EngineBase, Json, Name, UTCDateTime, Word, seconds_before

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

# A row that nobody gave a time to was never run, and so is due at once.
AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)
# Which slots may count as due, and which tell that the clock was set back.
SOON, AHEAD = timedelta(seconds=EARLY_MOST), timedelta(seconds=SKEW_MOST)


class DataFlow(Dated, EngineBase):
    """One flow. `handler` is the key of a registered callable, never an import path."""

    __tablename__ = "data_flows"

    name: Mapped[str] = mapped_column(Name)
    handler: Mapped[str] = mapped_column(Name)
    description: Mapped[str | None] = mapped_column(sa.Text)
    enabled: Mapped[bool] = mapped_column(sa.Boolean, default=True, server_default=sa.true())
    configuration: Mapped[dict[str, Any] | None] = mapped_column(Json, default=dict)
    run_interval: Mapped[int | None] = mapped_column(sa.Integer)
    cron: Mapped[str | None] = mapped_column(sa.String(200))
    timezone: Mapped[str] = mapped_column(sa.String(64), default="UTC", server_default="UTC")
    next_run_at: Mapped[datetime] = mapped_column(
        UTCDateTime, default=AT_ONCE, server_default="1970-01-01 00:00:00"
    )
    # The slot claimed last: the point that the flow's grid is anchored to.
    last_slot_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    last_run_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    last_run_status: Mapped[str | None] = mapped_column(Word)
    last_success_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    # When the run began that succeeded last, a backfill left out: what `after` goes by.
    last_success_started_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    failures_in_a_row: Mapped[int] = mapped_column(sa.Integer, default=0, server_default="0")
    # Slots that catch_up="skip" has passed over since the last run.
    skipped_slots: Mapped[int] = mapped_column(sa.BigInteger, default=0, server_default="0")
    # Where the next window starts: the end of the last successful one. Set by the first claim, so
    # that a first run that fails leaves no gap; kept here, so that pruning cannot lose it.
    window_starts_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    declared_schedule: Mapped[str | None] = mapped_column(sa.String(300))
    disabled_reason: Mapped[str | None] = mapped_column(sa.Text)
    # What its condition said last, if that was no.
    held_because: Mapped[str | None] = mapped_column(sa.Text)

    runs: WriteOnlyMapped[DataFlowRun] = relationship(
        back_populates="data_flow", cascade="all, delete-orphan", passive_deletes=True
    )

    __table_args__ = (
        sa.UniqueConstraint("name"),
        sa.CheckConstraint("run_interval > 0", name="run_interval_above_zero"),
        sa.CheckConstraint(
            "(run_interval IS NULL) <> (cron IS NULL)", name="either_run_interval_or_cron"
        ),
        sa.CheckConstraint(
            "last_run_status IN ('success', 'failed')", name="last_run_status_known"
        ),
        # Claims read the due flows, most overdue first, from this index alone.
        sa.Index(None, "enabled", "next_run_at"),
        # Whether the clock was set back is asked by each beat.
        sa.Index(None, "last_slot_at"),
    )

    @classmethod
    def due_to_run(cls, now: datetime) -> sa.Select[DataFlow]:
        """Select the flows that are due at `now`, most overdue first.

        Due is what is enabled, has no run that is pending or in progress, and has a slot that
        has passed or lies at most 10 % of the interval (30 s at most; 6 s for cron) ahead.
        """
        moments = (sa.literal(moment, UTCDateTime()) for moment in (now, now + SOON))
        return sa.select(cls).where(*cls.is_due(*moments)).order_by(cls.next_run_at)

    @classmethod
    def is_due(
        cls, now: ColumnElement[datetime], soon: ColumnElement[datetime]
    ) -> list[ColumnElement[bool]]:
        """Return the conditions of `due_to_run`, where `soon` lies SOON after `now`."""
        return [
            cls.enabled == sa.true(),
            # This line is what an index can answer; the next one is exact.
            cls.next_run_at <= soon,
            seconds_before(cls.next_run_at, cls._early()) <= now,
            ~cls.runs.any(DataFlowRun.active == 1),
        ]

    @classmethod
    def is_ahead(cls, limit: ColumnElement[datetime]) -> list[ColumnElement[bool]]:
        """Return the conditions of flows whose next slot is more than an interval after `limit`.

        Their last slot lies ahead of it, too: with a limit that is AHEAD of now, the clock was set
        back. It does not where somebody has put off the next one.
        """
        return [
            cls.last_slot_at > limit,  # what an index can answer; the next one is exact
            seconds_before(cls.next_run_at, cls.run_interval + cls._early()) > limit,
        ]

    @classmethod
    def _early(cls) -> sa.Case[float]:
        return sa.case(
            (cls.run_interval >= EARLY_MOST / EARLY_SHARE, EARLY_MOST),
            else_=sa.func.coalesce(cls.run_interval, CRON_INTERVAL) * EARLY_SHARE,
        )

    @property
    def last_run(self) -> DataFlowRun | None:
        """The run that was made last, whatever became of it; None if there never was one."""
        session = object_session(self)
        newest = self.runs.select().order_by(DataFlowRun.id.desc()).limit(1)
        return session.scalar(newest) if session else None

    @property
    def successful_runs(self) -> sa.Select[DataFlowRun]:
        """Select the runs that succeeded, newest first."""
        return DataFlowRun.completed().where(DataFlowRun.data_flow_id == self.id)
