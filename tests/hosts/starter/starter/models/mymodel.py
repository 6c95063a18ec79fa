"""A table."""

from sqlalchemy import Column, Integer, String

from .meta import Base


class MyModel(Base):
    """What the page counts."""

    __tablename__ = "models"
    id = Column(Integer, primary_key=True)
    name = Column(String(100), nullable=False)
