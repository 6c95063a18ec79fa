"""Let texts hold any Unicode, and keep the options that follow a failure."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateColumn

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UNICODE: dict[str, Any] = {"charset": "utf8mb4", "collation": "utf8mb4_bin"}
WORD = sa.String(20).with_variant(mysql.VARCHAR(20, **UNICODE), "mysql", "mariadb")


def text() -> mysql.TEXT:
    return mysql.TEXT(**UNICODE)


def varchar(length: int) -> mysql.VARCHAR:
    return mysql.VARCHAR(length, **UNICODE)


def upgrade() -> None:
    for column in (
        sa.Column("on_lost", WORD),
        sa.Column("retries", sa.Integer()),
        sa.Column("retry_delay", sa.Integer()),
        sa.Column("pause_after", sa.Integer()),
    ):
        op.add_column("data_flows", column)
    if op.get_bind().dialect.name in ("mysql", "mariadb"):
        # Names and words have this character set from the start.
        modify(
            "data_flows",
            sa.Column("description", text()),
            sa.Column("cron", varchar(200)),
            sa.Column("timezone", varchar(64), server_default="UTC", nullable=False),
            sa.Column("declared_schedule", varchar(300)),
            sa.Column("disabled_reason", text()),
            sa.Column("held_because", text()),
        )
        modify(
            "data_flow_runs",
            sa.Column("claim_id", varchar(36)),
            sa.Column("worker", varchar(200)),
            sa.Column("error_type", varchar(200)),
            sa.Column("error_message", text()),
            sa.Column("error_backtrace", text()),
            sa.Column("log", text()),
        )
        modify("data_flow_beats", sa.Column("source", varchar(200), nullable=False))


def modify(table: str, *columns: sa.Column[str]) -> None:
    """Change all of a table by one statement, which reads its rows once.

    Columns that are added later get the character set of the table.
    """
    dialect = op.get_bind().dialect
    changes = [f"MODIFY {CreateColumn(column).compile(dialect=dialect)}" for column in columns]
    default = "DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    op.execute(f"ALTER TABLE {table} {', '.join([default, *changes])}")


def downgrade() -> None:
    for name in ("pause_after", "retry_delay", "retries", "on_lost"):
        op.drop_column("data_flows", name)
