"""Create the heartbeat tables."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME = sa.String(200).with_variant(mysql.VARCHAR(200, collation="utf8mb4_bin"), "mysql", "mariadb")
WORD = sa.String(20).with_variant(mysql.VARCHAR(20, collation="utf8mb4_bin"), "mysql", "mariadb")
TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
SECONDS: sa.Double[float] = sa.Double()
COUNTS = (
    *("flows_due", "flows_triggered", "flows_succeeded", "flows_failed", "flows_in_progress"),
    "runs_reaped",
)


def columns(kind: sa.types.TypeEngine[Any], *names: str, **options: Any) -> list[sa.Column[Any]]:
    """Return columns of one kind."""
    return [sa.Column(name, kind, **options) for name in names]


def upgrade() -> None:
    op.create_table(
        "data_flows",
        sa.Column("id", ID, primary_key=True),
        *columns(NAME, "name", "handler", nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("enabled", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("configuration", sa.JSON()),
        sa.Column("run_interval", sa.Integer()),
        sa.Column("cron", sa.String(200)),
        sa.Column("timezone", sa.String(64), server_default="UTC", nullable=False),
        sa.Column("next_run_at", TIME, server_default="1970-01-01 00:00:00", nullable=False),
        *columns(TIME, "last_slot_at", "last_run_at"),
        sa.Column("last_run_status", WORD),
        *columns(TIME, "last_success_at", "window_starts_at"),
        sa.Column("declared_schedule", sa.String(300)),
        sa.Column("disabled_reason", sa.Text()),
        *columns(TIME, "created_at", "updated_at", nullable=False),
        sa.CheckConstraint("run_interval > 0", "run_interval_above_zero"),
        sa.CheckConstraint(
            "(run_interval IS NULL) <> (cron IS NULL)", "either_run_interval_or_cron"
        ),
        sa.CheckConstraint("last_run_status IN ('success', 'failed')", "last_run_status_known"),
        sa.UniqueConstraint("name", name="uq_data_flows_name"),
        sa.Index("ix_data_flows_enabled_next_run_at", "enabled", "next_run_at"),
    )

    op.create_table(
        "data_flow_runs",
        sa.Column("id", ID, primary_key=True),
        sa.Column("data_flow_id", ID, nullable=False),
        *columns(WORD, "status", "trigger", nullable=False),
        *columns(TIME, "scheduled_for", "not_before", "sent_at"),
        sa.Column("missed_slots", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="1", nullable=False),
        sa.Column("claim_id", sa.String(36)),
        sa.Column("worker", sa.String(200)),
        *columns(TIME, "lease_expires_at", "window_start", "window_end", "started_at", "ended_at"),
        sa.Column("duration", SECONDS),
        sa.Column("error_type", sa.String(200)),
        *columns(sa.Text(), "error_message", "error_backtrace"),
        sa.Column("result", sa.JSON()),
        sa.Column("log", sa.Text()),
        *columns(TIME, "created_at", "updated_at", nullable=False),
        sa.Column(
            "active",
            sa.SmallInteger(),
            sa.Computed(
                "CASE WHEN status IN ('pending', 'in_progress') THEN 1 END", persisted=True
            ),
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'in_progress', 'success', 'failed')", "status_known"
        ),
        sa.CheckConstraint(
            sa.column("trigger", sa.String).in_(["schedule", "manual", "retry", "backfill"]),
            "trigger_known",
        ),
        sa.CheckConstraint("ended_at >= started_at", "ended_after_start"),
        sa.ForeignKeyConstraint(["data_flow_id"], ["data_flows.id"], ondelete="CASCADE"),
        sa.UniqueConstraint(
            "data_flow_id",
            "scheduled_for",
            "attempt",
            name="uq_data_flow_runs_data_flow_id_scheduled_for_attempt",
        ),
        sa.UniqueConstraint("data_flow_id", "active", name="uq_data_flow_runs_data_flow_id_active"),
        sa.Index("ix_data_flow_runs_status_lease_expires_at", "status", "lease_expires_at"),
        # Else SQLite gives the id of the newest run again when that is deleted.
        sqlite_autoincrement=True,
    )

    op.create_table(
        "data_flow_beats",
        sa.Column("id", ID, primary_key=True),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column("source", sa.String(200), nullable=False),
        *columns(sa.Integer(), *COUNTS, server_default="0", nullable=False),
        sa.Column("duration", SECONDS),
        sa.Index("ix_data_flow_beats_received_at", "received_at"),
    )


def downgrade() -> None:
    for table in ("data_flow_beats", "data_flow_runs", "data_flows"):
        op.drop_table(table)
