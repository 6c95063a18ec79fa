"""Keep what schedules, conditions and retries go by."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    for column in (
        sa.Column("last_success_started_at", TIME),
        sa.Column("failures_in_a_row", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("skipped_slots", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("held_because", sa.Text()),
    ):
        op.add_column("data_flows", column)


def downgrade() -> None:
    for name in ("held_because", "skipped_slots", "failures_in_a_row", "last_success_started_at"):
        op.drop_column("data_flows", name)
