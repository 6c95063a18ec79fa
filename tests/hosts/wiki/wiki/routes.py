"""The routes."""


def includeme(config):
    """Add them."""
    config.add_route("login", "/login")
    config.add_route("view_page", "/{pagename}")
    config.add_route("add_page", "/add_page/{pagename}")
