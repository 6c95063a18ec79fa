"""Create the heartbeat tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME = sa.String(200).with_variant(mysql.VARCHAR(200, collation="utf8mb4_bin"), "mysql", "mariadb")
WORD = sa.String(20).with_variant(mysql.VARCHAR(20, collation="utf8mb4_bin"), "mysql", "mariadb")
TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
SECONDS: sa.Double[float] = sa.Double()


def upgrade() -> None:
    op.create_table(
        "data_flows",
        sa.Column("id", ID, primary_key=True),
        sa.Column("name", NAME, nullable=False),
        sa.Column("handler", NAME, nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("enabled", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("configuration", sa.JSON()),
        sa.Column("run_interval", sa.Integer()),
        sa.Column("cron", sa.String(200)),
        sa.Column("timezone", sa.String(64), server_default="UTC", nullable=False),
        sa.Column("next_run_at", TIME, server_default="1970-01-01 00:00:00", nullable=False),
        sa.Column("last_slot_at", TIME),
        sa.Column("last_run_at", TIME),
        sa.Column("last_run_status", WORD),
        sa.Column("last_success_at", TIME),
        sa.Column("window_starts_at", TIME),
        sa.Column("declared_schedule", sa.String(300)),
        sa.Column("disabled_reason", sa.Text()),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.CheckConstraint("run_interval > 0", op.f("ck_data_flows_run_interval_above_zero")),
        sa.CheckConstraint(
            "(run_interval IS NULL) <> (cron IS NULL)",
            op.f("ck_data_flows_either_run_interval_or_cron"),
        ),
        sa.CheckConstraint(
            "last_run_status IN ('success', 'failed')", op.f("ck_data_flows_last_run_status_known")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_data_flows"),
        sa.UniqueConstraint("name", name="uq_data_flows_name"),
    )
    op.create_index("ix_data_flows_enabled_next_run_at", "data_flows", ["enabled", "next_run_at"])

    op.create_table(
        "data_flow_runs",
        sa.Column("id", ID, primary_key=True),
        sa.Column("data_flow_id", ID, nullable=False),
        sa.Column("status", WORD, nullable=False),
        sa.Column("trigger", WORD, nullable=False),
        sa.Column("scheduled_for", TIME),
        sa.Column("not_before", TIME),
        sa.Column("sent_at", TIME),
        sa.Column("missed_slots", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="1", nullable=False),
        sa.Column("claim_id", sa.String(36)),
        sa.Column("worker", sa.String(200)),
        sa.Column("lease_expires_at", TIME),
        sa.Column("window_start", TIME),
        sa.Column("window_end", TIME),
        sa.Column("started_at", TIME),
        sa.Column("ended_at", TIME),
        sa.Column("duration", SECONDS),
        sa.Column("error_type", sa.String(200)),
        sa.Column("error_message", sa.Text()),
        sa.Column("error_backtrace", sa.Text()),
        sa.Column("result", sa.JSON()),
        sa.Column("log", sa.Text()),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column(
            "active",
            sa.SmallInteger(),
            sa.Computed(
                "CASE WHEN status IN ('pending', 'in_progress') THEN 1 END", persisted=True
            ),
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'in_progress', 'success', 'failed')",
            op.f("ck_data_flow_runs_status_known"),
        ),
        sa.CheckConstraint(
            sa.column("trigger", sa.String).in_(["schedule", "manual", "retry", "backfill"]),
            op.f("ck_data_flow_runs_trigger_known"),
        ),
        sa.CheckConstraint("ended_at >= started_at", op.f("ck_data_flow_runs_ended_after_start")),
        sa.ForeignKeyConstraint(
            ["data_flow_id"],
            ["data_flows.id"],
            name="fk_data_flow_runs_data_flow_id_data_flows",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_data_flow_runs"),
        sa.UniqueConstraint(
            "data_flow_id",
            "scheduled_for",
            "attempt",
            name="uq_data_flow_runs_data_flow_id_scheduled_for_attempt",
        ),
        sa.UniqueConstraint("data_flow_id", "active", name="uq_data_flow_runs_data_flow_id_active"),
    )
    op.create_index(
        "ix_data_flow_runs_status_lease_expires_at",
        "data_flow_runs",
        ["status", "lease_expires_at"],
    )

    op.create_table(
        "data_flow_beats",
        sa.Column("id", ID, primary_key=True),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column("source", sa.String(200), nullable=False),
        sa.Column("flows_due", sa.Integer(), server_default="0", nullable=False),
        sa.Column("flows_triggered", sa.Integer(), server_default="0", nullable=False),
        sa.Column("flows_succeeded", sa.Integer(), server_default="0", nullable=False),
        sa.Column("flows_failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("flows_in_progress", sa.Integer(), server_default="0", nullable=False),
        sa.Column("runs_reaped", sa.Integer(), server_default="0", nullable=False),
        sa.Column("duration", SECONDS),
        sa.PrimaryKeyConstraint("id", name="pk_data_flow_beats"),
    )
    op.create_index("ix_data_flow_beats_received_at", "data_flow_beats", ["received_at"])


def downgrade() -> None:
    op.drop_table("data_flow_beats")
    op.drop_table("data_flow_runs")
    op.drop_table("data_flows")
