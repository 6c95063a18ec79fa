"""Things."""

from pyramid.view import view_config


@view_config(route_name="things", renderer="json", request_method="GET", openapi=True)
def things(request):
    """List as many things as were asked for."""
    return ["thing"] * request.openapi_validated.parameters.query["limit"]
