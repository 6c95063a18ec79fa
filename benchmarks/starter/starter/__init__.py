"""A new Pyramid project in the shape of the Pylons starter with SQLAlchemy and Jinja2.

Written for the benchmarks, without text of the original. It has the same dependencies, a model, a
migration environment, a script that inserts the first row, tests, and a home page that reads a row.
Beats are compared with its other views.
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
