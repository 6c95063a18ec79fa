"""Add indexes and columns, any Unicode on MySQL, and ids that are not reused on SQLite."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateColumn

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UNICODE: dict[str, Any] = {"charset": "utf8mb4", "collation": "utf8mb4_bin"}
WORD = sa.String(20).with_variant(mysql.VARCHAR(20, **UNICODE), "mysql", "mariadb")
TEXT = sa.Text().with_variant(mysql.TEXT(**UNICODE), "mysql", "mariadb")
TIME = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
INDEXES = {
    "ix_data_flows_last_slot_at": ("data_flows", ["last_slot_at"]),
    "ix_data_flow_runs_data_flow_id_status_ended_at_id": (
        "data_flow_runs",
        ["data_flow_id", "status", "ended_at", "id"],
    ),
}


def new_columns() -> list[sa.Column[Any]]:
    """Return the new columns of data_flows."""
    return [
        sa.Column("last_success_started_at", TIME),
        sa.Column("failures_in_a_row", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("skipped_slots", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("held_because", TEXT),
        sa.Column("on_lost", WORD),
        sa.Column("retries", sa.Integer()),
        sa.Column("retry_delay", sa.Integer()),
        sa.Column("pause_after", sa.Integer()),
        sa.Column("backfill_until", TIME),
    ]


def upgrade() -> None:
    for column in new_columns():
        op.add_column("data_flows", column)
    database = op.get_bind().dialect.name
    if database == "sqlite":
        number_runs_once()
    elif database in ("mysql", "mariadb"):
        hold_any_unicode()
    for name, (table, columns) in INDEXES.items():
        op.create_index(name, table, columns)


def number_runs_once() -> None:
    """Use no id of a run again, as SQLite does with that of the newest run when it is deleted.

    The table is made anew. Alembic would copy the values of a generated column, which is refused,
    so that column and its constraint are dropped and added.
    """
    unique = "uq_data_flow_runs_data_flow_id_active"
    is_active = "CASE WHEN status IN ('pending', 'in_progress') THEN 1 END"
    autoincrement = {"sqlite_autoincrement": True}
    with op.batch_alter_table(
        "data_flow_runs", recreate="always", table_kwargs=autoincrement
    ) as runs:
        runs.drop_constraint(unique, type_="unique")
        runs.drop_column("active")
        runs.add_column(
            sa.Column("active", sa.SmallInteger(), sa.Computed(is_active, persisted=True))
        )
        runs.create_unique_constraint(unique, ["data_flow_id", "active"])


def hold_any_unicode() -> None:
    """Change the character set of the text columns; that of names and words is utf8mb4 already."""
    modify(
        "data_flows",
        sa.Column("description", text()),
        sa.Column("cron", varchar(200)),
        sa.Column("timezone", varchar(64), server_default="UTC", nullable=False),
        sa.Column("declared_schedule", varchar(300)),
        sa.Column("disabled_reason", text()),
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


def text() -> mysql.TEXT:
    return mysql.TEXT(**UNICODE)


def varchar(length: int) -> mysql.VARCHAR:
    return mysql.VARCHAR(length, **UNICODE)


def modify(table: str, *columns: sa.Column[str]) -> None:
    """Change all of a table by one statement, which reads its rows once.

    Columns that are added later get the character set of the table.
    """
    dialect = op.get_bind().dialect
    changes = [f"MODIFY {CreateColumn(column).compile(dialect=dialect)}" for column in columns]
    default = "DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    op.execute(f"ALTER TABLE {table} {', '.join([default, *changes])}")


def downgrade() -> None:
    for name, (table, _columns) in INDEXES.items():
        op.drop_index(name, table)
    for column in reversed(new_columns()):
        op.drop_column("data_flows", column.name)
