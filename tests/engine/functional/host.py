"""An application in the shape of the Pylons starter with SQLAlchemy, which knows no heartbeat.

It has models and a Base of its own, `request.dbsession`, pyramid_tm with an explicit manager,
pyramid_retry, a security policy that knows its users by a cookie, sessions, CSRF options and a
default permission.
"""

from typing import Any

import pyramid_retry
import zope.sqlalchemy
from pyramid.authentication import AuthTktCookieHelper
from pyramid.authorization import ACLHelper, Allow, Authenticated
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from pyramid.router import Router
from pyramid.security import NO_PERMISSION_REQUIRED
from pyramid.session import SignedCookieSessionFactory
from sqlalchemy import engine_from_config
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker


class Base(DeclarativeBase):
    """The host's own."""


class Page(Base):
    """A table of the host's, with a name that anybody might choose."""

    __tablename__ = "host_pages"

    id: Mapped[int] = mapped_column(primary_key=True)


class HostPolicy:
    """Users by cookie; editors may operate the heartbeat."""

    def __init__(self) -> None:
        self.helper = AuthTktCookieHelper("the-host's-own-secret", hashalg="sha512")
        self.acl = ACLHelper()

    def identity(self, request: Request) -> str | None:
        """Return the user."""
        found = self.helper.identify(request)
        return str(found["userid"]) if found else None

    def authenticated_userid(self, request: Request) -> str | None:
        """Return the user."""
        return self.identity(request)

    def permits(self, request: Request, _context: object, permission: str) -> Any:
        """Ask the access control list."""
        userid = self.identity(request)
        principals = [userid, Authenticated] if userid else []
        root = type("Root", (), {"__acl__": ACL})
        return self.acl.permits(root, principals, permission)

    def remember(self, request: Request, userid: str, **_options: object) -> Any:
        """Set the cookie."""
        return self.helper.remember(request, userid)

    def forget(self, request: Request, **_options: object) -> Any:
        """Take the cookie away."""
        return self.helper.forget(request)


ACL = [(Allow, "editor", "heartbeat.operate"), (Allow, Authenticated, "view")]


def configure(config: Configurator) -> None:
    """Set up everything that the starter does."""
    config.set_session_factory(SignedCookieSessionFactory("the-host's-session-secret"))
    config.set_security_policy(HostPolicy())
    config.set_default_permission("view")
    config.set_default_csrf_options(require_csrf=True)
    config.add_settings({"tm.manager_hook": "pyramid_tm.explicit_manager"})
    config.include("pyramid_tm")
    config.include("pyramid_retry")
    settings = config.get_settings()
    config.registry["dbsession_factory"] = factory = sessionmaker(
        bind=engine_from_config(settings, "sqlalchemy.")
    )

    def dbsession(request: Request) -> Any:
        session = factory(info={"request": request})
        zope.sqlalchemy.register(session, transaction_manager=request.tm)
        return session

    config.add_request_method(dbsession, "dbsession", reify=True)
    for name, view, permission in (
        ("login", login, NO_PERMISSION_REQUIRED),
        ("pages", pages, "view"),
        ("csrf", csrf, "view"),
        ("retried", retried, NO_PERMISSION_REQUIRED),
    ):
        config.add_route(name, f"/{name}")
        config.add_view(view, route_name=name, permission=permission)


def login(request: Request) -> Response:
    """Log in as the user that the query names, without a password."""
    headers = HostPolicy().remember(request, request.GET["user"])
    response = Response("welcome")
    response.headerlist.extend(headers)
    return response


def pages(request: Request) -> Response:
    """Count the pages, or add one."""
    if request.method == "POST":
        request.dbsession.add(Page())
        request.dbsession.flush()
    return Response(str(request.dbsession.query(Page).count()))


def csrf(request: Request) -> Response:
    """Tell the session's CSRF token, as a form would."""
    return Response(request.session.get_csrf_token())


def retried(request: Request) -> Response:
    """Fail for once, in a way that is worth another try."""
    if not pyramid_retry.is_last_attempt(request):
        raise pyramid_retry.RetryableException
    return Response("at last")


def main(_global_config: dict[str, str], **settings: Any) -> Router:
    """Return the host with the heartbeat in it: what its .ini file is served by."""
    with Configurator(settings=settings) as config:
        configure(config)
        config.include("data_flows.heartbeat")
        app: Router = config.make_wsgi_app()
        return app
