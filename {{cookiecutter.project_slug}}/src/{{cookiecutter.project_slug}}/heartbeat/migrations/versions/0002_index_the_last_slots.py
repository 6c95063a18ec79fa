"""Index the last slots, by which a beat sees that the clock was set back."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_data_flows_last_slot_at", "data_flows", ["last_slot_at"])


def downgrade() -> None:
    op.drop_index("ix_data_flows_last_slot_at", "data_flows")
