"""Keep what schedules, conditions and retries go by, and index last slots and the ends of runs.

What 0002 and 0003 did before they were released is a part of it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0001"

TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
COLUMNS = (
    sa.Column("last_success_started_at", TIME),
    sa.Column("failures_in_a_row", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("skipped_slots", sa.BigInteger(), nullable=False, server_default="0"),
    sa.Column("held_because", sa.Text()),
)
LAST_SLOTS = "ix_data_flows_last_slot_at"
ENDS = "ix_data_flow_runs_data_flow_id_status_ended_at_id"


def upgrade() -> None:
    for column in COLUMNS:
        op.add_column("data_flows", column)
    op.create_index(LAST_SLOTS, "data_flows", ["last_slot_at"])
    op.create_index(ENDS, "data_flow_runs", ["data_flow_id", "status", "ended_at", "id"])


def downgrade() -> None:
    op.drop_index(ENDS, "data_flow_runs")
    op.drop_index(LAST_SLOTS, "data_flows")
    for column in reversed(COLUMNS):
        op.drop_column("data_flows", column.name)
