"""Entries."""

from pyramid.csrf import get_csrf_token
from pyramid.view import view_config
from sqlalchemy import select

from ..models import Entry


@view_config(route_name="home", renderer="string")
def home(request):
    """List the entries, and count the visits of a session."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    names = request.db.scalars(select(Entry.name)).all()
    return f"blog: {names}, {request.session['visits']}"


@view_config(route_name="blog_action", match_param="action=token", renderer="string")
def token(request):
    """Give the token of the session."""
    return get_csrf_token(request)


@view_config(route_name="blog_action", match_param="action=create", renderer="string")
def create(request):
    """Add an entry."""
    request.db.add(Entry(name=request.POST["name"]))
    request.db.commit()
    return "blog: created"


@view_config(route_name="anything", require_csrf=False, renderer="string")
def anything(request):
    """Catch all."""
    request.response.status = 404
    return f"blog: nothing is called {request.matchdict['slug']}"
