"""Create the tables of the flow `import_csv`."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# A plain DATETIME keeps no part of a second on MySQL and MariaDB.
TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    """Create `csv_files` and `csv_records`."""
    op.create_table(
        "csv_files",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("row_count", sa.Integer(), nullable=False),
        sa.Column("imported_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_csv_files"),
        sa.UniqueConstraint("sha256", name="uq_csv_files_sha256"),{{ cookiecutter.__unicode_table }}
    )
    op.create_table(
        "csv_records",
        sa.Column("id", ID, nullable=False),
        sa.Column("file_id", ID, nullable=False),
        sa.Column("row_number", sa.Integer(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_csv_records"),
        sa.ForeignKeyConstraint(
            ["file_id"],
            ["csv_files.id"],
            name="fk_csv_records_file_id_csv_files",
            ondelete="CASCADE",
        ),{{ cookiecutter.__unicode_table }}
    )
    op.create_index("ix_csv_records_file_id", "csv_records", ["file_id"])


def downgrade() -> None:
    """Drop both tables, and with them what was imported."""
    op.drop_table("csv_records")
    op.drop_table("csv_files")
