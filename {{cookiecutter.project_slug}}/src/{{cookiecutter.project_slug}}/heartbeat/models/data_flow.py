"""A flow's row: its schedule, its configuration and the outcome of its last run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVarTuple

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, WriteOnlyMapped, mapped_column, object_session, relationship

from ..db import types
from ..db.expressions import END_OF_TIME, has_come, seconds_before
from ..db.text import AnyText
from ..schedules.every import CRON_INTERVAL, EARLY_SHARE, MAX_EARLY, MAX_SKEW
from .data_flow_run import DataFlowRun
from .meta import EngineBase, TimestampMixin
from .obstacle import Obstacle

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

# The next slot of a flow that was never scheduled: it is due at once.
NEVER_SCHEDULED = datetime(1970, 1, 1, tzinfo=UTC)
# A beat may wait for a slot up to SOON ahead. One more than AHEAD ahead was claimed before the
# clock was set back.
SOON, AHEAD = timedelta(seconds=MAX_EARLY), timedelta(seconds=MAX_SKEW)
# The state of the alarm of a flow that the engine has disabled.
PAUSED = "paused"
# How long the schedule of a flow waits for a backfill that gives no sign of life.
BACKFILL_HOLD = timedelta(seconds=60)

_Columns = TypeVarTuple("_Columns")


class DataFlow(TimestampMixin, EngineBase):
    """One flow. `handler` is the key of a registered callable, never an import path."""

    __tablename__ = "data_flows"

    name: Mapped[str] = mapped_column(types.Name)
    handler: Mapped[str] = mapped_column(types.Name)
    description: Mapped[str | None] = mapped_column(AnyText())
    enabled: Mapped[bool] = mapped_column(types.Flag, default=True, server_default=sa.true())
    configuration: Mapped[dict[str, Any] | None] = mapped_column(types.JsonObject, default=dict)
    run_interval: Mapped[int | None] = mapped_column(types.Interval)
    cron: Mapped[str | None] = mapped_column(AnyText(200))
    timezone: Mapped[str] = mapped_column(AnyText(64), default="UTC", server_default="UTC")
    next_run_at: Mapped[datetime] = mapped_column(
        types.SlotTime, default=NEVER_SCHEDULED, server_default="1970-01-01 00:00:00"
    )
    # The slot claimed last: the point that the flow's grid is anchored to.
    last_slot_at: Mapped[datetime | None] = mapped_column(types.StoredTime)
    last_run_at: Mapped[datetime | None] = mapped_column(types.StoredTime)
    last_run_status: Mapped[str | None] = mapped_column(types.ShortString)
    last_success_at: Mapped[datetime | None] = mapped_column(types.StoredTime)
    # When the last successful run began, backfills excluded. The option `after` compares with it.
    last_success_started_at: Mapped[datetime | None] = mapped_column(types.StoredTime)
    # The runs that have ended, and the seconds that they took: removed history counts, too.
    success_count: Mapped[int] = mapped_column(types.BigInteger, default=0, server_default="0")
    success_seconds: Mapped[float] = mapped_column(types.Seconds, default=0, server_default="0")
    failure_count: Mapped[int] = mapped_column(types.BigInteger, default=0, server_default="0")
    failure_seconds: Mapped[float] = mapped_column(types.Seconds, default=0, server_default="0")
    reaped_count: Mapped[int] = mapped_column(types.BigInteger, default=0, server_default="0")
    redelivered_count: Mapped[int] = mapped_column(types.BigInteger, default=0, server_default="0")
    failures_in_a_row: Mapped[int] = mapped_column(types.Integer, default=0, server_default="0")
    # Slots that catch_up="skip" has passed over since the last run.
    skipped_slots: Mapped[int] = mapped_column(types.BigInteger, default=0, server_default="0")
    # Where the next window starts: the end of the last successful one. Set by the first claim, so
    # that a first run that fails leaves no gap; kept here, so that pruning cannot lose it.
    window_starts_at: Mapped[datetime | None] = mapped_column(types.StoredTime)
    declared_schedule: Mapped[str | None] = mapped_column(AnyText(300))
    # The declared options that take effect after a failure, for processes that do not know the
    # handler. NULL until a process that knows it has recorded them.
    on_lost: Mapped[str | None] = mapped_column(types.ShortString)
    retries: Mapped[int | None] = mapped_column(types.Integer)
    retry_delay: Mapped[int | None] = mapped_column(types.Integer)
    pause_after: Mapped[int | None] = mapped_column(types.Integer)
    disabled_reason: Mapped[str | None] = mapped_column(AnyText())
    # The schedule waits until this time, for a backfill that is going on.
    backfill_until: Mapped[datetime | None] = mapped_column(types.StoredTime)
    # When it was enabled last; NULL until it was disabled for the first time.
    enabled_at: Mapped[datetime | None] = mapped_column(types.StoredTime)
    # What optional/alarms has notified of: "failing", "stale" or PAUSED, since when, and the time
    # of the last message; and when the flow is to be checked again. PAUSED without that time is
    # still to be notified of.
    alarm_state: Mapped[str | None] = mapped_column(types.ShortString)
    alarm_since: Mapped[datetime | None] = mapped_column(types.StoredTime)
    alarmed_at: Mapped[datetime | None] = mapped_column(types.StoredTime)
    alarm_check_at: Mapped[datetime | None] = mapped_column(types.StoredTime)
    # Why its condition was false at the last check; NULL if it was true.
    held_because: Mapped[str | None] = mapped_column(AnyText())

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
        # Each beat checks whether the clock was set back.
        sa.Index(None, "last_slot_at"),
        # Without the flows that need no check, where the database can leave them out.
        sa.Index(
            None,
            "alarm_check_at",
            postgresql_where=sa.text("alarm_check_at IS NOT NULL"),
            sqlite_where=sa.text("alarm_check_at IS NOT NULL"),
        ),
    )

    @classmethod
    def due_to_run(cls, now: datetime) -> sa.Select[DataFlow]:
        """Select the flows that are due at `now`, most overdue first.

        A flow is due if it is enabled, has no run that is pending or in progress, does not wait for
        a backfill, and its next slot is not in the future.
        """
        due = cls.is_due(sa.literal(now, types.StoredTime()))
        return sa.select(cls).where(*due).order_by(cls.next_run_at)

    @classmethod
    def is_due(cls, now: ColumnElement[datetime]) -> list[ColumnElement[bool]]:
        """Return the conditions of `due_to_run`."""
        return [obstacle.absent for obstacle in cls.obstacles(now)]

    @classmethod
    def obstacles(cls, now: ColumnElement[datetime]) -> list[Obstacle]:
        """Return the obstacles that can keep a flow from being due at `now`, gravest first."""
        no_backfill = sa.or_(cls.backfill_until.is_(None), has_come(cls.backfill_until, now))
        return [
            Obstacle(
                "active", ~cls.runs.any(DataFlowRun.active == 1), "It has a run that has not ended."
            ),
            Obstacle("disabled", cls.enabled == sa.true(), "It is disabled: {disabled_reason}."),
            Obstacle(
                "backfill", no_backfill, "Its schedule waits for a backfill that is going on."
            ),
            Obstacle("not due", cls.next_run_at <= now, "Not due until {slot}{window}."),
        ]

    @classmethod
    def is_due_soon(
        cls, now: ColumnElement[datetime], soon: ColumnElement[datetime]
    ) -> list[ColumnElement[bool]]:
        """Return the conditions of flows whose slot comes soon enough for a beat at `now` to wait.

        It lies at most 10 % of the interval ahead (30 s at most; 6 s for cron). `soon` lies SOON
        after `now`.
        """
        return [
            *cls.is_due(soon),  # what an index can answer; the others are exact
            cls.next_run_at > now,
            seconds_before(cls.next_run_at, cls._early()) <= now,
        ]

    @classmethod
    def is_ahead(cls, limit: ColumnElement[datetime]) -> list[ColumnElement[bool]]:
        """Return the conditions of flows whose last slot is later than `limit`, AHEAD of now.

        The clock was set back since. Excluded are flows whose next slot was set to before `limit`.
        """
        in_time = cls.last_slot_at <= END_OF_TIME
        return [cls.last_slot_at > limit, in_time, cls.next_run_at > limit]

    @classmethod
    def any_beyond(cls, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
        """Return whether an enabled flow that fulfils `conditions` has a slot after END_OF_TIME.

        Queries for slots of the past do not find such a row. Each half uses an index of its own:
        with `==` in both, SQLite would read all enabled flows for the second one.
        """
        next_slot = cls.enabled == sa.true(), cls.next_run_at > END_OF_TIME
        last_slot = cls.enabled != sa.false(), cls.last_slot_at > END_OF_TIME
        flows = sa.select(cls.id).where(*conditions)
        return sa.or_(flows.where(*next_slot).exists(), flows.where(*last_slot).exists())

    @classmethod
    def is_stale(cls, now: datetime, limits: Mapping[int, list[str]]) -> ColumnElement[bool]:
        """Return the condition that a success is overdue. limits: handlers, by seconds.

        They are counted from the last success, or from when the flow was created or enabled.
        """
        stale: list[ColumnElement[bool]] = [sa.false()]
        for seconds, handlers in limits.items():
            limit = sa.literal(now - timedelta(seconds=seconds), types.StoredTime())
            since = cls.created_at, cls.enabled_at, cls.last_success_at
            in_time = [sa.func.coalesce(moment, cls.created_at) > limit for moment in since]
            stale.append(sa.and_(cls.handler.in_(handlers), ~sa.or_(*in_time)))
        return sa.or_(*stale)

    @classmethod
    def _early(cls) -> sa.Case[float]:
        return sa.case(
            (cls.run_interval >= MAX_EARLY / EARLY_SHARE, MAX_EARLY),
            else_=sa.func.coalesce(cls.run_interval, CRON_INTERVAL) * EARLY_SHARE,
        )

    def slots_begin(self, now: datetime) -> datetime:
        """Return the next slot; for a flow that was never scheduled, when it was created."""
        if self.next_run_at == NEVER_SCHEDULED:
            return min(self.created_at, now)
        return self.next_run_at

    @property
    def last_run(self) -> DataFlowRun | None:
        """The newest run, whatever its status; None if there is none."""
        session = object_session(self)
        newest = self.runs.select().order_by(DataFlowRun.id.desc()).limit(1)
        return session.scalar(newest) if session else None

    @property
    def successful_runs(self) -> sa.Select[DataFlowRun]:
        """Select the runs that succeeded, newest first."""
        return DataFlowRun.completed().where(DataFlowRun.data_flow_id == self.id)


def with_active_run(rows: sa.Select[*_Columns]) -> sa.Select[*_Columns]:
    """Join flows with their active runs; a flow without one stays."""
    active = sa.and_(DataFlowRun.data_flow_id == DataFlow.id, DataFlowRun.active == 1)
    return rows.outerjoin(DataFlowRun, active)
