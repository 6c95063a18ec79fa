"""The model, and `request.dbsession`, which ends with the request's transaction."""

from __future__ import annotations

from typing import Any

import zope.sqlalchemy
from sqlalchemy import Column, Engine, Integer, Text, engine_from_config
from sqlalchemy.orm import DeclarativeBase, configure_mappers, sessionmaker


class Base(DeclarativeBase):
    """The base of the models."""


class MyModel(Base):
    """A row."""

    __tablename__ = "models"

    id = Column(Integer, primary_key=True)
    name = Column(Text)
    value = Column(Integer)


configure_mappers()


def get_engine(settings: dict[str, Any]) -> Engine:
    """Return an engine for the setting `sqlalchemy.url`."""
    return engine_from_config(settings, "sqlalchemy.")


def includeme(config: Any) -> None:
    """Set up the session; with the setting `starter.create`, create the tables as well."""
    settings = config.get_settings()
    settings["tm.manager_hook"] = "pyramid_tm.explicit_manager"
    config.include("pyramid_tm")
    config.include("pyramid_retry")
    engine = get_engine(settings)
    factory = sessionmaker(bind=engine)
    if settings.get("starter.create"):
        Base.metadata.create_all(engine)

    def dbsession(request: Any) -> Any:
        session = factory()
        zope.sqlalchemy.register(session, transaction_manager=request.tm)
        return session

    config.add_request_method(dbsession, reify=True)
