"""Pages."""

from pyramid.httpexceptions import HTTPNotFound, HTTPSeeOther
from pyramid.security import NO_PERMISSION_REQUIRED, remember
from pyramid.view import forbidden_view_config, view_config
from sqlalchemy import select

from .. import models


@view_config(route_name="login", permission=NO_PERMISSION_REQUIRED, renderer="string")
def login(request):
    """Sign in whoever the form names: nobody is asked for a password in a test."""
    if request.method == "POST":
        headers = remember(request, request.POST["login"])
        return HTTPSeeOther("/FrontPage", headers=headers)
    return "wiki: login"


@forbidden_view_config(renderer="string")
def forbidden(exc, request):
    """Refuse in the application's own words."""
    request.response.status = 403
    return "wiki: forbidden"


@view_config(route_name="view_page", renderer="string")
def view_page(request):
    """Show a page."""
    name = request.matchdict["pagename"]
    page = request.dbsession.scalars(select(models.Page).filter_by(name=name)).first()
    if page is None:
        raise HTTPNotFound("No such page")
    return f"wiki: {page.name}"


@view_config(route_name="add_page", permission="create", request_method="POST", renderer="string")
def add_page(request):
    """Add a page."""
    request.dbsession.add(models.Page(name=request.matchdict["pagename"]))
    return "wiki: added"
