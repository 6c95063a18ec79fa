"""The tables, and request.dbsession."""

import zope.sqlalchemy
from sqlalchemy import Column, Integer, String, engine_from_config
from sqlalchemy.orm import declarative_base, sessionmaker

Base = declarative_base()


class Page(Base):
    """A page."""

    __tablename__ = "pages"
    id = Column(Integer, primary_key=True)
    name = Column(String(100), nullable=False)


def includeme(config):
    """Set up the model."""
    settings = config.get_settings()
    settings["tm.manager_hook"] = "pyramid_tm.explicit_manager"
    config.include("pyramid_tm")
    factory = sessionmaker(bind=settings.get("dbengine") or engine_from_config(settings))

    def dbsession(request):
        session = factory()
        zope.sqlalchemy.register(session, transaction_manager=request.tm)
        return session

    config.add_request_method(dbsession, reify=True)
