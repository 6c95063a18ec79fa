"""The page for what is not there."""

from pyramid.view import notfound_view_config


@notfound_view_config(renderer="string")
def notfound(request):
    """Answer in the application's own words."""
    request.response.status = 404
    return "starter: not found"
