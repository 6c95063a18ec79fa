"""The routes."""


def includeme(config):
    """Add them."""
    config.add_static_view("static", "templates", cache_max_age=3600)
    config.add_route("home", "/")
