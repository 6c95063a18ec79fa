"""In the shape of wiki2 of the Pyramid documentation: policy, root factory, scan."""

from pyramid.config import Configurator


def main(global_config, **settings):
    """Return the WSGI application."""
    with Configurator(settings=settings) as config:
        config.include(".models")
        config.include(".security")
        config.include(".routes")
        config.scan()
    return config.make_wsgi_app()
