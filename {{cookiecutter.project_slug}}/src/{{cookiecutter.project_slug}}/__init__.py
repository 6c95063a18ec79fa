"""The application: what it is made of, in the order that matters."""

from typing import Any

# First, so that it reports a package that is missing.
from .heartbeat import startup as startup  # isort: split

from pyramid.config import Configurator
from pyramid.csrf import CookieCSRFStoragePolicy
from pyramid.router import Router

from .heartbeat import HeartbeatSecurityPolicy


def main(_global_config: dict[str, str], **settings: Any) -> Router:
    """Return the WSGI application. `settings` are the `[app:main]` section of the .ini file."""
    with Configurator(settings=settings) as config:
        # Who may do what is told by the token that is sent; views without a permission are open.
        config.set_security_policy(HeartbeatSecurityPolicy())
        # Forms need their CSRF token; heartbeats need none, since no cookie authorises them.
        config.set_csrf_storage_policy(CookieCSRFStoragePolicy(httponly=True))
        config.set_default_csrf_options(require_csrf=True)
        # The engine: its own transactions, outside of request.tm. It checks the settings.
        config.include(".heartbeat")
        # Your tables and request.dbsession; brings pyramid_tm for your views.
        config.include(".models")
        # After the engine, whose directive the @flow decorators call.
        config.scan(".flows")
        config.include(".views")
        app: Router = config.make_wsgi_app()
        return app
