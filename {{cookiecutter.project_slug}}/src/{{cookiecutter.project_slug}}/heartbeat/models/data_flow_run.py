"""A run's row: one attempt to execute a flow, from its claim to its end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column, relationship

from ..db import types
from ..db.expressions import END_OF_TIME, has_come
from ..db.stored import readable
from ..db.text import AnyText
from ..errors import StatusError
from ..redaction import describe_error
from .meta import EngineBase, TimestampMixin

if TYPE_CHECKING:
    from .data_flow import DataFlow


class RunStatus(StrEnum):
    """Where a run is in its life."""

    PENDING = "pending"  # requested, not claimed yet; it has no lease and cannot be lost
    IN_PROGRESS = "in_progress"  # claimed: its flow runs, or its lease will expire
    SUCCESS = "success"  # ended: the flow's writes were committed together with this status
    FAILED = "failed"  # ended: the flow's writes were rolled back


class Trigger(StrEnum):
    """Why a run exists."""

    SCHEDULE = "schedule"
    MANUAL = "manual"
    RETRY = "retry"
    BACKFILL = "backfill"


# The allowed changes of the status. A run that has ended never changes it.
ALLOWED_MOVES: dict[str, set[RunStatus]] = {
    RunStatus.PENDING: {RunStatus.IN_PROGRESS, RunStatus.FAILED},
    # Back to pending if it was claimed but never begun.
    RunStatus.IN_PROGRESS: {RunStatus.SUCCESS, RunStatus.FAILED, RunStatus.PENDING},
}


class DataFlowRun(TimestampMixin, EngineBase):
    """One run. The database refuses a second one of a slot and attempt, and a second active one."""

    __tablename__ = "data_flow_runs"

    data_flow_id: Mapped[int] = mapped_column(sa.ForeignKey("data_flows.id", ondelete="CASCADE"))
    status: Mapped[str] = mapped_column(types.ShortString, default=RunStatus.PENDING.value)
    trigger: Mapped[str] = mapped_column(types.ShortString, default=Trigger.SCHEDULE.value)
    scheduled_for: Mapped[datetime | None] = mapped_column(types.StoredTime)
    not_before: Mapped[datetime | None] = mapped_column(types.StoredTime)
    sent_at: Mapped[datetime | None] = mapped_column(types.StoredTime)
    # How often it was handed to Celery again, since no worker had begun it.
    redeliveries: Mapped[int] = mapped_column(types.BigInteger, default=0, server_default="0")
    missed_slots: Mapped[int] = mapped_column(types.BigInteger, default=0, server_default="0")
    attempt: Mapped[int] = mapped_column(types.Integer, default=1, server_default="1")
    claim_id: Mapped[str | None] = mapped_column(AnyText(36))
    worker: Mapped[str | None] = mapped_column(AnyText(200))
    lease_expires_at: Mapped[datetime | None] = mapped_column(types.StoredTime)
    window_start: Mapped[datetime | None] = mapped_column(types.StoredTime)
    window_end: Mapped[datetime | None] = mapped_column(types.StoredTime)
    started_at: Mapped[datetime | None] = mapped_column(types.StoredTime)
    ended_at: Mapped[datetime | None] = mapped_column(types.StoredTime)
    duration: Mapped[float | None] = mapped_column(types.Seconds)
    error_type: Mapped[str | None] = mapped_column(AnyText(200))
    error_message: Mapped[str | None] = mapped_column(AnyText())
    error_backtrace: Mapped[str | None] = mapped_column(AnyText())
    result: Mapped[Any | None] = mapped_column(types.Json)
    log: Mapped[str | None] = mapped_column(AnyText())
    # 1 until the run has ended, then NULL: a unique constraint allows one active run for each flow.
    # MySQL has no partial index, which would need no column.
    active: Mapped[int | None] = mapped_column(
        sa.SmallInteger,
        sa.Computed("CASE WHEN status IN ('pending', 'in_progress') THEN 1 END", persisted=True),
    )

    data_flow: Mapped[DataFlow] = relationship(back_populates="runs")

    __table_args__ = (
        sa.UniqueConstraint("data_flow_id", "scheduled_for", "attempt"),
        sa.UniqueConstraint("data_flow_id", "active"),
        # Not as text: `trigger` is a reserved word in MySQL, and must be quoted.
        sa.CheckConstraint(status.in_([*RunStatus]), name="status_known"),
        sa.CheckConstraint(trigger.in_([*Trigger]), name="trigger_known"),
        sa.CheckConstraint("ended_at >= started_at", name="ended_after_start"),
        # For reaping and for pending runs: their ranges contain no run that has ended.
        sa.Index(None, "status", "lease_expires_at"),
        # For pruning, which needs no other columns: a flow's last successes and failures.
        sa.Index(None, "data_flow_id", "status", "ended_at", "id"),
        # For lists, newest first: of a flow, of a status, and of both.
        sa.Index(None, "data_flow_id", "id"),
        sa.Index(None, "status", "id"),
        sa.Index(None, "data_flow_id", "status", "id"),
        # Otherwise SQLite would reuse the id of the newest run after it is deleted.
        {"sqlite_autoincrement": True},
    )

    @classmethod
    def pending(cls) -> sa.Select[DataFlowRun]:
        """Select the runs that wait to be claimed, oldest first."""
        return sa.select(cls).where(cls.status == RunStatus.PENDING.value).order_by(cls.id)

    @classmethod
    def in_progress(cls) -> sa.Select[DataFlowRun]:
        """Select the runs that are claimed and have not ended, oldest first."""
        return sa.select(cls).where(cls.status == RunStatus.IN_PROGRESS.value).order_by(cls.id)

    @classmethod
    def completed(cls) -> sa.Select[DataFlowRun]:
        """Select the runs that succeeded, newest first."""
        return sa.select(cls).where(cls.status == RunStatus.SUCCESS.value).order_by(cls.id.desc())

    @classmethod
    def failed(cls) -> sa.Select[DataFlowRun]:
        """Select the runs that failed, newest first."""
        return sa.select(cls).where(cls.status == RunStatus.FAILED.value).order_by(cls.id.desc())

    @classmethod
    def is_active(cls) -> sa.ColumnElement[bool]:
        """Return the condition of runs that have not ended, which an index can answer."""
        return cls.status.in_((RunStatus.PENDING.value, RunStatus.IN_PROGRESS.value))

    @classmethod
    def is_expired(cls, now: sa.ColumnElement[datetime]) -> list[sa.ColumnElement[bool]]:
        """Return the conditions of runs whose lease had ended by `now`."""
        return [cls.status == RunStatus.IN_PROGRESS.value, has_come(cls.lease_expires_at, now)]

    @classmethod
    def is_leased(cls, now: sa.ColumnElement[datetime]) -> list[sa.ColumnElement[bool]]:
        """Return the conditions of runs whose lease has not ended by `now`: their workers live."""
        is_claimed = cls.status == RunStatus.IN_PROGRESS.value
        return [is_claimed, cls.lease_expires_at > now, cls.lease_expires_at <= END_OF_TIME]

    @classmethod
    def waiting_since(cls) -> sa.ColumnElement[datetime]:
        """Return since when a pending run has waited for its start, after any delay of a retry."""
        return sa.case((cls.not_before > cls.created_at, cls.not_before), else_=cls.created_at)

    @classmethod
    def is_ahead(cls, limit: sa.ColumnElement[datetime]) -> list[sa.ColumnElement[bool]]:
        """Return the conditions of runs whose delay or lease was counted from after `limit`."""
        waits = cls.status == RunStatus.PENDING.value, cls.not_before.is_not(None)
        is_claimed = cls.status == RunStatus.IN_PROGRESS.value
        is_leased = is_claimed, cls.lease_expires_at > cls.updated_at
        return [
            cls.is_active(),
            sa.or_(
                sa.and_(*waits, cls.created_at > limit, cls.created_at <= END_OF_TIME),
                sa.and_(*is_leased, cls.updated_at > limit, cls.updated_at <= END_OF_TIME),
            ),
        ]

    @classmethod
    def recent(cls, now: datetime | None = None) -> sa.Select[DataFlowRun]:
        """Select the runs made in the 24 hours before `now`, newest first."""
        since = (now or datetime.now(UTC)) - timedelta(hours=24)
        return sa.select(cls).where(cls.created_at >= since).order_by(cls.id.desc())

    def start(self, now: datetime | None = None) -> None:
        """Move from pending to in_progress at `now`. Raises StatusError from any other status."""
        self._move(RunStatus.IN_PROGRESS)
        self.started_at = now or datetime.now(UTC)

    def release(self) -> None:
        """Move back from in_progress to pending: no flow has begun. Raises StatusError."""
        self._move(RunStatus.PENDING)
        self.claim_id = self.worker = self.lease_expires_at = self.started_at = None
        self.sent_at = None

    def succeed(self, now: datetime | None = None, *, result: object = None) -> None:
        """Move from in_progress to success at `now`. Raises StatusError from any other status."""
        self._end(RunStatus.SUCCESS, now)
        self.result = result

    def fail(self, error: BaseException, now: datetime | None = None) -> None:
        """Move to failed at `now` with the `error`. Raises StatusError if the run has ended."""
        self._end(RunStatus.FAILED, now)
        for name, value in describe_error(error).items():
            setattr(self, name, value)

    def _move(self, status: RunStatus) -> None:
        if status not in ALLOWED_MOVES.get(self.status or RunStatus.PENDING, set()):
            raise StatusError(f"run {self.id} is {self.status} and cannot become {status}")
        self.status = status.value

    def _end(self, status: RunStatus, now: datetime | None) -> None:
        self._move(status)
        self.ended_at = now or datetime.now(UTC)
        self.started_at = readable(self.started_at)
        if self.started_at:
            # The wall clock may have stepped back meanwhile; the database checks the order.
            self.ended_at = max(self.ended_at, self.started_at)
            self.duration = (self.ended_at - self.started_at).total_seconds()
