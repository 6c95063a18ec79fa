"""The tables, and request.db, which has nothing to do with a transaction manager."""

from sqlalchemy import Column, Integer, String, engine_from_config
from sqlalchemy.orm import Session, declarative_base

Base = declarative_base()


class Entry(Base):
    """An entry."""

    __tablename__ = "entries"
    id = Column(Integer, primary_key=True)
    name = Column(String(100), nullable=False)


def includeme(config):
    """Set up the model."""
    engine = config.registry.settings.get("dbengine") or engine_from_config(config.registry.settings)

    def db(request):
        session = Session(engine)
        request.add_finished_callback(lambda _request: session.close())
        return session

    config.add_request_method(db, reify=True)
