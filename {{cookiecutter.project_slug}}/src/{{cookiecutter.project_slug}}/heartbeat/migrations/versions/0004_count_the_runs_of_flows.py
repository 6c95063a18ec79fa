"""Add counts of each flow's runs, which removed history does not lower, and its alarm."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UNICODE: dict[str, Any] = {"charset": "utf8mb4", "collation": "utf8mb4_bin"}
WORD = sa.String(20).with_variant(mysql.VARCHAR(20, **UNICODE), "mysql", "mariadb")
TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
CHECKS = "ix_data_flows_alarm_check_at"


def counts() -> list[sa.Column[Any]]:
    """Return the new columns of data_flows."""
    return [
        sa.Column("success_count", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("success_seconds", sa.Double(), nullable=False, server_default="0"),
        sa.Column("failure_count", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("failure_seconds", sa.Double(), nullable=False, server_default="0"),
        sa.Column("reaped_count", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("redelivered_count", sa.BigInteger(), nullable=False, server_default="0"),
    ]


def alarm() -> list[sa.Column[Any]]:
    """Return the columns of the alarm."""
    return [
        sa.Column("enabled_at", TIME),
        sa.Column("alarm_state", WORD),
        sa.Column("alarm_since", TIME),
        sa.Column("alarmed_at", TIME),
        sa.Column("alarm_check_at", TIME),
    ]


def redeliveries() -> sa.Column[Any]:
    """Return the new column of data_flow_runs."""
    return sa.Column("redeliveries", sa.BigInteger(), nullable=False, server_default="0")


def upgrade() -> None:
    for column in counts() + alarm():
        op.add_column("data_flows", column)
    op.add_column("data_flow_runs", redeliveries())
    is_checked = sa.text("alarm_check_at IS NOT NULL")
    op.create_index(
        CHECKS,
        "data_flows",
        ["alarm_check_at"],
        postgresql_where=is_checked,
        sqlite_where=is_checked,
    )
    op.execute(count_history())


def count_history() -> sa.Update:
    """Return the statement that counts the runs of the history."""
    flows = sa.table("data_flows", sa.column("id", sa.BigInteger()), *counts())
    runs = sa.table(
        "data_flow_runs",
        sa.column("data_flow_id", sa.BigInteger()),
        sa.column("status", sa.String()),
        sa.column("duration", sa.Double()),
        sa.column("error_type", sa.String()),
    )
    of_flow = runs.c.data_flow_id == flows.c.id
    seconds = sa.func.coalesce(sa.func.sum(runs.c.duration), 0)
    values: dict[str, Any] = {}
    for status, name in (("success", "success"), ("failed", "failure")):
        ended = of_flow, runs.c.status == status
        count = sa.select(sa.func.count()).select_from(runs)
        values[f"{name}_count"] = count.where(*ended).scalar_subquery()
        values[f"{name}_seconds"] = sa.select(seconds).where(*ended).scalar_subquery()
    reaped = sa.select(sa.func.count()).select_from(runs)
    reaped = reaped.where(of_flow, runs.c.status == "failed", runs.c.error_type == "LeaseExpired")
    return sa.update(flows).values(reaped_count=reaped.scalar_subquery(), **values)


def downgrade() -> None:
    op.drop_index(CHECKS, "data_flows")
    for column in reversed(counts() + alarm()):
        op.drop_column("data_flows", column.name)
    op.drop_column("data_flow_runs", "redeliveries")
