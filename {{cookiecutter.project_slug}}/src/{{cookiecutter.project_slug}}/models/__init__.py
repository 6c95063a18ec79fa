"""Your tables, and `request.dbsession` to use them in views.

Every module in this folder is imported below, so that Alembic finds its tables. A flow has a
session of its own, `run.session`, and needs nothing from here but the models.
"""

from importlib import import_module
from pkgutil import walk_packages
from typing import Any

import zope.sqlalchemy
from pyramid.config import Configurator
from pyramid.request import Request
from sqlalchemy import Engine
from sqlalchemy.orm import Session, configure_mappers, sessionmaker

from ..heartbeat import database_url, make_engine
from .meta import Base

__all__ = ["Base", "get_engine", "get_session_factory", "get_tm_session"]


def get_engine(settings: dict[str, Any]) -> Engine:
    """Return an Engine for `DATABASE_URL`, or else for the setting `sqlalchemy.url`."""
    return make_engine(database_url(settings))


def get_session_factory(engine: Engine) -> sessionmaker[Session]:
    """Return a factory of sessions on `engine`."""
    return sessionmaker(bind=engine)


def get_tm_session(
    session_factory: sessionmaker[Session],
    transaction_manager: Any,
    request: Request | None = None,
) -> Session:
    """Return a session whose transaction ends with that of `transaction_manager`.

    In a view that is the request's: a response commits, an exception rolls back. In a script use
    `with transaction.manager as tm: session = get_tm_session(session_factory, tm)`.
    """
    session = session_factory(info={"request": request})
    zope.sqlalchemy.register(session, transaction_manager=transaction_manager)
    return session


def includeme(config: Configurator) -> None:
    """Add `request.dbsession`; `request.tm` is its transaction manager."""
    # Explicit: a forgotten begin is an error instead of a transaction shared between requests.
    config.add_settings({"tm.manager_hook": "pyramid_tm.explicit_manager"})
    config.include("pyramid_tm")

    session_factory = get_session_factory(get_engine(config.get_settings()))
    config.registry["dbsession_factory"] = session_factory

    def dbsession(request: Request) -> Session:
        return get_tm_session(session_factory, request.tm, request=request)

    config.add_request_method(dbsession, "dbsession", reify=True)


# Last, so that a module of yours may import from this one.
for module in walk_packages(__path__, f"{__name__}."):
    import_module(module.name)
configure_mappers(){{ cookiecutter.__unicode_tables }}
