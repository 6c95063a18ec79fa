"""In the shape of an application of pyramid_openapi3."""

from pathlib import Path

from pyramid.config import Configurator


def main(global_config, **settings):
    """Return the WSGI application."""
    with Configurator(settings=settings) as config:
        config.include("pyramid_openapi3")
        config.pyramid_openapi3_spec(str(Path(__file__).parent / "openapi.yaml"), route="/openapi.yaml")
        config.pyramid_openapi3_add_explorer(route="/docs")
        config.add_route("things", "/things")
        config.scan(".")
    return config.make_wsgi_app()
