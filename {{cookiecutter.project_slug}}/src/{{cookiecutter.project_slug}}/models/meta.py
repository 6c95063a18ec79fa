"""The base of your models: one MetaData with names for its constraints, so that Alembic can
change them on every database.
"""

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

# The column type for times: aware UTC in Python, microseconds kept, on every database.
from ..heartbeat import UTCDateTime

__all__ = ["Base", "UTCDateTime"]

NAMING_CONVENTION = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """The base of your models."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
