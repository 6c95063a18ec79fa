"""The home page."""

from pyramid.view import view_config
from sqlalchemy import func, select

from ..models import MyModel


@view_config(route_name="home", renderer="starter:templates/home.jinja2")
def home(request):
    """Count the rows."""
    return {"count": request.dbsession.scalar(select(func.count(MyModel.id)))}
