"""In the shape of a cornice service, behind a filter of a pipeline."""

from pyramid.config import Configurator


def main(global_config, **settings):
    """Return the WSGI application."""
    config = Configurator(settings=settings)
    config.include("cornice")
    config.scan()
    return config.make_wsgi_app()


def make_quiet(application, global_config):
    """Return a WSGI filter, which names itself in a header."""

    def quiet(environ, start_response):
        def start(status, headers, exc_info=None):
            return start_response(status, [*headers, ("X-Filter", "quiet")], exc_info)

        return application(environ, start)

    return quiet
