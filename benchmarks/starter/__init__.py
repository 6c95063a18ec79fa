"""What a new Pyramid project is: the shape of the Pylons starter with SQLAlchemy and Jinja2.

Written from that shape, since the starter itself cannot be fetched everywhere: pyramid_jinja2,
pyramid_tm, pyramid_retry, zope.sqlalchemy, a model, and a page that reads a row. Its further views
are what a beat is compared with.
"""

from __future__ import annotations

from typing import Any

from pyramid.config import Configurator


def main(_global_config: dict[str, str], **settings: Any) -> Any:
    """Return the application."""
    with Configurator(settings=settings) as config:
        config.include("pyramid_jinja2")
        config.include(".models")
        config.add_route("home", "/")
        for name in ("bare", "select", "insert"):
            config.add_route(name, f"/{name}")
        config.scan(".views")
        return config.make_wsgi_app()
