"""A table of the tests' own, for what flows write; it is there where a test uses `notes`."""

from sqlalchemy import Integer, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class _Base(DeclarativeBase):
    """Its own, so that no chain of migrations sees it."""


class Note(_Base):
    """A row that a flow writes in a test."""

    __tablename__ = "notes_of_tests"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    mark: Mapped[str] = mapped_column(String(200), unique=True)
    size: Mapped[int] = mapped_column(Integer, default=1)
