"""In the shape of the Pylons cookiecutter starter with SQLAlchemy: it scans its whole package."""

from pyramid.config import Configurator


def main(global_config, **settings):
    """Return the WSGI application."""
    with Configurator(settings=settings) as config:
        config.include("pyramid_jinja2")
        config.include(".routes")
        config.include(".models")
        config.scan()
    return config.make_wsgi_app()
