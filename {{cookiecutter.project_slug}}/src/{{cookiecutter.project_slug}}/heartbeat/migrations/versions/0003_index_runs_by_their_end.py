"""Index runs by their end."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NAME = "ix_data_flow_runs_data_flow_id_status_ended_at_id"


def upgrade() -> None:
    op.create_index(NAME, "data_flow_runs", ["data_flow_id", "status", "ended_at", "id"])


def downgrade() -> None:
    op.drop_index(NAME, "data_flow_runs")
