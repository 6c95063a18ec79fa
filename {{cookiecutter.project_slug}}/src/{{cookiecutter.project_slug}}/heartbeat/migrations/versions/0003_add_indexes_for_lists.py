"""Add indexes for lists of runs, newest first: of a flow, of a status, and of both."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_data_flow_runs_data_flow_id_id": ["data_flow_id", "id"],
    "ix_data_flow_runs_status_id": ["status", "id"],
    "ix_data_flow_runs_data_flow_id_status_id": ["data_flow_id", "status", "id"],
}


def upgrade() -> None:
    for name, columns in INDEXES.items():
        op.create_index(name, "data_flow_runs", columns)


def downgrade() -> None:
    for name in INDEXES:
        op.drop_index(name, "data_flow_runs")
