"""Hold the schedule of a flow while a backfill is going on."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    op.add_column("data_flows", sa.Column("backfill_until", TIME))


def downgrade() -> None:
    op.drop_column("data_flows", "backfill_until")
