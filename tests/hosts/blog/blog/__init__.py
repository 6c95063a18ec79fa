"""In the shape of pyramid_blogr: sessions, own models, and a route that catches all."""

from pyramid.config import Configurator
from pyramid.session import SignedCookieSessionFactory


def main(global_config, **settings):
    """Return the WSGI application."""
    config = Configurator(settings=settings)
    config.set_session_factory(SignedCookieSessionFactory("a secret of the blog"))
    config.set_default_csrf_options(require_csrf=True)
    config.include(".models")
    config.add_route("home", "/")
    config.add_route("blog_action", "/blog/{action}")
    config.add_route("anything", "/{slug:.*}")
    config.scan(".views")
    return config.make_wsgi_app()
