"""The engine's own MetaData and the base of its models."""

from datetime import UTC, datetime
from typing import cast

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ..db.types import Id, StoredTime

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
VERSION_TABLE = "data_flow_version"


class EngineBase(DeclarativeBase):
    """The base of the engine's models; its tables have their own migration chain."""

    metadata = sa.MetaData(naming_convention=NAMING)

    id: Mapped[int] = mapped_column(Id, primary_key=True, sort_order=-1)


def _now() -> datetime:
    return datetime.now(UTC)


class TimestampMixin:
    """Adds the times at which a row was created and last changed."""

    created_at: Mapped[datetime] = mapped_column(StoredTime, default=_now)
    updated_at: Mapped[datetime] = mapped_column(StoredTime, default=_now, onupdate=_now)


def table_of(model: type[EngineBase]) -> sa.Table:
    """Return a model's table, for statements without the overhead of the ORM."""
    return cast("sa.Table", model.__table__)


def is_engine_table(name: str | None) -> bool:
    """Return whether a table is the engine's, so that each chain sees only its own tables."""
    return name == VERSION_TABLE or name in EngineBase.metadata.tables
